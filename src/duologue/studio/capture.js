// Turns what the microphone gives into the user's track: PCM16 frames at the agreed rate, each with its capture position.

import { Resampler } from "./resample.js";

const FRAME_S = 0.02;

export class Capture {
  /** `emit` takes { pcm: Int16Array, position, level }. */
  constructor(contextRate, rate, emit) {
    this.resampler = new Resampler(contextRate, rate);
    this.samples = new Float32Array(Math.round(rate * FRAME_S));
    this.emit = emit;
    this.position = 0;
    this.filled = 0;
    this.muted = false;
  }

  /** Samples of the microphone; a muted one gives silence, so that media time goes on. */
  push(input) {
    const { resampler, samples } = this;
    resampler.push(input);
    for (let ready = resampler.ready; ready > 0; ready = resampler.ready) {
      const count = Math.min(ready, samples.length - this.filled);
      resampler.pull(samples, this.filled, count);
      this.filled += count;
      if (this.filled === samples.length) this._frame();
    }
  }

  _frame() {
    const pcm = new Int16Array(this.samples.length);
    let power = 0;
    if (!this.muted) {
      for (let n = 0; n < pcm.length; n++) {
        const sample = Math.max(-1, Math.min(1, this.samples[n]));
        power += sample * sample;
        pcm[n] = Math.round(sample * (sample < 0 ? 32768 : 32767));
      }
    }
    this.emit({ pcm, position: this.position, level: Math.sqrt(power / pcm.length) });
    this.position += this.samples.length; // not of pcm: it may be in other hands by now
    this.filled = 0;
  }
}
