// Listens behind the playback worklet: what really went to the sound card, with the context frame it went at.

class Tap extends AudioWorkletProcessor {
  process([input]) {
    const samples = input[0];
    if (samples?.some((sample) => sample !== 0)) this.port.postMessage({ frame: currentFrame, samples: samples.slice() });
    return true;
  }
}

registerProcessor("tap", Tap);
