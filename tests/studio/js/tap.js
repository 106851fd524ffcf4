// Runs before the page's own scripts: puts a tap between the playback worklet and the loudspeaker. `window.tap` is all blocks
// that were not silent: { rate, blocks: [{ frame, samples }] }.

window.tap = { rate: 0, blocks: [] };

const { addModule } = AudioWorklet.prototype;
AudioWorklet.prototype.addModule = async function (...given) {
  await addModule.call(this, "/test/tap-worklet.js");
  return addModule.apply(this, given);
};

const { connect } = AudioNode.prototype;
AudioNode.prototype.connect = function (to, ...rest) {
  if (to instanceof AudioDestinationNode && this instanceof AudioWorkletNode && !this.numberOfInputs) {
    const tap = new AudioWorkletNode(this.context, "tap", { numberOfOutputs: 0 });
    window.tap.rate = this.context.sampleRate;
    tap.port.onmessage = ({ data }) => window.tap.blocks.push(data);
    connect.call(this, tap);
  }
  return connect.call(this, to, ...rest);
};
