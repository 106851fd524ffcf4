// The capture worklet: hands frames of the user's track to the worker over its own port.

import { Capture } from "./capture.js";

class Microphone extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate } }) {
    super();
    this.silence = new Float32Array(128);
    this.port.onmessage = ({ data: port }) => {
      this.capture = new Capture(sampleRate, rate, (frame) => {
        port.postMessage({ type: "frame", ...frame }, [frame.pcm.buffer]);
      });
      port.onmessage = ({ data }) => {
        this.capture.muted = data.muted;
      };
    };
  }

  process([input]) {
    // A microphone that was unplugged gives no channel: time goes on in silence.
    this.capture?.push(input[0] ?? this.silence);
    return true;
  }
}

registerProcessor("duologue-capture", Microphone);
