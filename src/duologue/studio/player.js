// Plays the listener's track: frames in, samples at the sound card's rate out, and the truth about what was rendered.
//
// Pure; the playback worklet runs it. Input is pulled through the resampler as the card asks for output, silence where there
// is none, so a place in the output converts exactly to a position on the track.

import { Resampler } from "./resample.js";

/** Speech begins once this much is there, or this long after its first frame came: an irregular start would stutter. */
const START_S = 0.03;
/** A clear fades this long, against a click. */
const FADE_S = 0.004;
/** More than this never waits; a server paces itself far below. */
const MAX_S = 90;

export class Player {
  /** `rate`: of the track; `contextRate`: of the sound card. */
  constructor(rate, contextRate) {
    this.rate = rate;
    this.contextRate = contextRate;
    this.resampler = new Resampler(rate, contextRate);
    this.position = 0; // first position of the track that was not rendered
    this.dropped = 0;
    this.playing = false;
    this._queue = []; // waits: { pcm, position, response }
    this._queued = 0;
    this._under = []; // went into the resampler: the same, with the input index of their first sample
    this._waited = 0;
    this._flushed = false;
    this._gain = 1;
    this._target = 1;
    this._step = 0;
    this._scratch = new Float32Array(256);
  }

  /** Nothing waits and nothing sounds. */
  get dry() {
    return !this._queue.length && !this._under.length;
  }

  write({ pcm, position, response, last }) {
    this._flushed = last;
    if (this._queued + pcm.length > MAX_S * this.rate) {
      this.dropped += pcm.length;
      return;
    }
    if (!pcm.length) return;
    this._queue.push({ pcm, position, response });
    this._queued += pcm.length;
  }

  /** Loudness from now on: `gainDb` (at most 0), reached in `rampMs`. */
  duck(gainDb, rampMs) {
    this._target = 10 ** (Math.min(0, gainDb) / 20);
    this._step = (this._target - this._gain) / Math.max(1, (rampMs / 1000) * this.contextRate);
  }

  /** Fill `out` from `from` to `to`. */
  render(out, from = 0, to = out.length) {
    if (!this.playing && this._queue.length) {
      this._waited += to - from;
      this.playing =
        this._flushed || this._queued >= START_S * this.rate || this._waited >= START_S * this.contextRate;
    }
    if (this.playing) this._pull(out, from, to);
    else out.fill(0, from, to);
  }

  /**
   * Silence what is not rendered of `response` (or of all) below track position `before`. What sounds now fades in `out`
   * from `from` on. Returns the place in `out` after the fade.
   */
  clear({ before, response }, out, from) {
    const hit = (item) => item.position < before && (!response || item.response === response);
    let end = from;
    if (this.playing && this._under.some(hit)) {
      end = Math.min(out.length, from + Math.floor(FADE_S * this.contextRate));
      this._pull(out, from, end);
      for (let n = from; n < end; n++) out[n] *= (end - n) / (end - from);
      this._unread();
      this.resampler.reset();
    }
    this._queue = this._queue.flatMap((item) => (hit(item) ? tail(item, before) : [item]));
    this._queued = this._queue.reduce((sum, item) => sum + item.pcm.length, 0);
    if (this.dry) this._stop();
    return end;
  }

  _pull(out, from, to) {
    const { resampler } = this;
    let wanted = resampler.wants(to - from);
    while (wanted > 0 && this._queue.length) {
      const item = this._queue[0];
      const taken = item.pcm.subarray(0, wanted);
      this._under.push({ ...item, pcm: taken, index: resampler.pushed });
      resampler.push(this._floats(taken));
      this._queued -= taken.length;
      wanted -= taken.length;
      if (taken.length === item.pcm.length) this._queue.shift();
      else this._queue[0] = cut(item, taken.length);
    }
    if (wanted > 0) resampler.pushSilence(wanted);
    resampler.pull(out, from, to - from);
    for (let n = from; n < to; n++) {
      if (this._gain !== this._target) {
        this._gain += this._step;
        if (this._step >= 0 ? this._gain >= this._target : this._gain <= this._target) this._gain = this._target;
      }
      out[n] *= this._gain;
    }
    this._advance();
    if (this.dry) this._stop();
  }

  /** Everything before the resampler's centre has been rendered. */
  _advance() {
    const centre = this.resampler.centre;
    while (this._under.length) {
      const { index, pcm, position } = this._under[0];
      const done = Math.min(pcm.length, Math.floor(centre - index));
      if (done > 0) this.position = position + done;
      if (done < pcm.length) break;
      this._under.shift();
    }
  }

  /** Put back what the resampler has read ahead. */
  _unread() {
    const centre = this.resampler.centre;
    const ahead = this._under.map((item) => cut(item, Math.max(0, Math.floor(centre - item.index))));
    this._queue.unshift(...ahead.filter((item) => item.pcm.length));
    this._under = [];
  }

  _floats(pcm) {
    if (this._scratch.length < pcm.length) this._scratch = new Float32Array(pcm.length);
    for (let n = 0; n < pcm.length; n++) this._scratch[n] = pcm[n] / 32768;
    return this._scratch.subarray(0, pcm.length);
  }

  _stop() {
    this.resampler.reset(); // what comes next begins from silence
    this.playing = false;
    this._waited = 0;
    this._flushed = false;
  }
}

/** `item` without its first `count` samples. */
function cut({ pcm, position, response }, count) {
  return { pcm: pcm.subarray(count), position: position + count, response };
}

/** What of `item` lies at `before` or above. */
function tail(item, before) {
  const rest = cut(item, Math.min(item.pcm.length, before - item.position));
  return rest.pcm.length ? [rest] : [];
}
