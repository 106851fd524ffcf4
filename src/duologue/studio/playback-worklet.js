// The playback worklet: runs the player, and tells the worker over its own port what was rendered at which frame.

import { Player } from "./player.js";

const REPORT_S = 0.02;

class Playback extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate, port } }) {
    super();
    this.player = new Player(rate, sampleRate);
    this.clears = [];
    this.reportAt = 0;
    this.wasPlaying = false;
    this.power = 0;
    this.port.onmessage = ({ data }) => this.connect(data);
  }

  /** The first message brings the port to the worker; the main thread is out of it from then on. */
  connect(port) {
    this.out = port;
    port.onmessage = ({ data }) => {
      if (data.type === "audio") this.player.write(data);
      else if (data.type === "clear") this.clears.push(data);
      else if (data.type === "duck") this.player.duck(data.gain_db, data.ramp_ms ?? 0);
    };
  }

  process(inputs, [[out]]) {
    const { player } = this;
    let from = 0;
    for (const message of this.clears) {
      from = player.clear(message, out, from);
      this.out.postMessage({ type: "cleared", c: message.c, position: player.position, frame: currentFrame + from });
    }
    this.clears.length = 0;
    if (from < out.length) player.render(out, from);
    this.report(out);
    return true;
  }

  report(out) {
    const { playing, position, dropped } = this.player;
    if (!playing && !this.wasPlaying) return;
    for (const sample of out) this.power += sample * sample;
    const frame = currentFrame + out.length;
    if (playing === this.wasPlaying && frame < this.reportAt) return;
    const level = Math.sqrt(this.power / (REPORT_S * sampleRate));
    this.out.postMessage({ type: "point", frame, position, playing, level, dropped });
    this.power = 0;
    this.wasPlaying = playing;
    this.reportAt = frame + REPORT_S * sampleRate;
  }
}

registerProcessor("duologue-playback", Playback);
