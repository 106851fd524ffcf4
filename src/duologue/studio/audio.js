// Opens the sound card: one AudioContext at its own rate, the microphone and loudspeaker worklets, and the ports that the
// worker will hold. The page itself never touches a sample.

const MICROPHONE = {
  echoCancellation: true,
  noiseSuppression: true,
  autoGainControl: true,
  channelCount: { ideal: 1 },
};

/** Why there is no microphone, in words that say what to do. */
function refusal(error) {
  switch (error.name) {
    case "NotAllowedError":
      return "The microphone is not allowed. Allow it beside the page's address, or type.";
    case "NotFoundError":
      return "No microphone was found. Plug one in and call again, or type.";
    case "NotReadableError":
      return "Another program holds the microphone. Close it and call again, or type.";
    default:
      return `The microphone cannot be used (${error.message}). You can type.`;
  }
}

async function microphone(report) {
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: MICROPHONE });
  } catch (error) {
    report(refusal(error));
    return null;
  }
}

/**
 * Call from a click. `report` takes a sentence for the user. Returns null where the browser gives pages no sound at all.
 */
export async function openAudio({ input, output, withMicrophone, report }) {
  if (!window.isSecureContext || !window.AudioWorkletNode) {
    report("Sound needs https, or this page at localhost. You can type.");
    return null;
  }
  const context = new AudioContext({ latencyHint: "interactive" });
  const [stream] = await Promise.all([
    withMicrophone ? microphone(report) : null,
    context.audioWorklet.addModule("capture-worklet.js"),
    context.audioWorklet.addModule("playback-worklet.js"),
    context.resume(),
  ]);
  const audio = new Audio(context, output);
  if (stream) audio.listen(stream, input, report);
  return audio;
}

class Audio {
  constructor(context, rate) {
    this.context = context;
    this.stream = null;
    this.capturePort = null;
    const node = new AudioWorkletNode(context, "duologue-playback", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { rate },
    });
    this.playbackPort = connect(node);
    node.connect(context.destination);
  }

  listen(stream, rate, report) {
    const { context } = this;
    this.stream = stream;
    const node = new AudioWorkletNode(context, "duologue-capture", {
      channelCount: 1,
      channelCountMode: "explicit",
      outputChannelCount: [1],
      processorOptions: { rate },
    });
    this.capturePort = connect(node);
    context.createMediaStreamSource(stream).connect(node);
    // Its output is silent; a node that leads nowhere would not be run everywhere.
    node.connect(context.destination);
    for (const track of stream.getAudioTracks()) {
      track.onended = () => report("The microphone has gone. You can type, or call again with another one.");
    }
  }

  /** Which moment of the context leaves the loudspeaker when; `at` is milliseconds since 1970 on the monotonic clock. */
  clock() {
    const { contextTime = 0, performanceTime = 0 } = this.context.getOutputTimestamp?.() ?? {};
    const latencyS = this.context.outputLatency || this.context.baseLatency || 0;
    return { contextTime, at: performanceTime + performance.timeOrigin, latencyS };
  }

  close() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    if (this.context.state !== "closed") this.context.close();
  }
}

/** A channel between a worklet and whoever gets the returned port. */
function connect(node) {
  const { port1, port2 } = new MessageChannel();
  node.port.postMessage(port1, [port1]);
  return port2;
}
