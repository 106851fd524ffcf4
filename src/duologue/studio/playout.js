// What is audible when: maps the playback worklet's reports ("at frame f, position p was rendered") to the listener's ear.
//
// A rendered frame is heard after the output latency. The page's clock says which frame of the audio context leaves the
// loudspeaker at which time (AudioContext.getOutputTimestamp); where a browser cannot say, the latency it states is used.
// Times are seconds on the worker's clock.

const REPORT_S = 0.1;
const POINTS = 512;
/** Times are in floating point; a whole sample is not to be lost by it. */
const ROUNDING = 1e-6;

export class Playout {
  constructor(rate, contextRate) {
    this.rate = rate;
    this.contextRate = contextRate;
    this.latencyS = 0;
    this._points = [];
    this._arrived = 0;
    this._anchor = null;
    this._reported = 0;
    this._next = 0;
  }

  /** `contextTime` leaves the loudspeaker at `at`; 0 if the browser does not know. `latencyS`: what it states instead. */
  sync({ contextTime, at, latencyS }) {
    this.latencyS = latencyS;
    this._anchor = contextTime > 0 ? { frame: contextTime * this.contextRate, at } : null;
  }

  /** At context frame `frame`, everything before `position` had been rendered; `playing`: more follows. */
  point(frame, position, playing, now) {
    this._points.push({ frame, position, playing });
    this._arrived = now;
    if (this._points.length > POINTS) this._points.shift();
  }

  /** First position that is not audible yet. */
  audible(now) {
    const points = this._points;
    if (!points.length) return 0;
    const frame = this._frame(now);
    let index = points.length - 1;
    while (index >= 0 && points[index].frame > frame) index--;
    if (index < 0) return 0;
    const point = points[index];
    const next = points[index + 1];
    if (!next || !point.playing) return point.position;
    // In between the track ran at its rate, unless it stepped over something that was cleared.
    const ran = Math.floor(((frame - point.frame) * this.rate) / this.contextRate + ROUNDING);
    return Math.min(point.position + ran, next.position);
  }

  /** A position to acknowledge now, or null: every 100 ms, and at once when everything has been heard. */
  report(now) {
    const position = this.audible(now);
    const last = this._points.at(-1);
    const finished = last !== undefined && !last.playing && position >= last.position;
    if (position <= this._reported || (now < this._next && !finished)) return null;
    this._reported = position;
    this._next = now + REPORT_S;
    return position;
  }

  /** Everything rendered so far has been heard. */
  get settled() {
    const last = this._points.at(-1);
    return !last || (!last.playing && this._reported >= last.position);
  }

  /** When `frame`, rendered just before `now`, leaves the loudspeaker. */
  leaves(frame, now) {
    return this._anchor ? this._anchor.at + (frame - this._anchor.frame) / this.contextRate : now + this.latencyS;
  }

  /** The context frame that leaves the loudspeaker at `now`. */
  _frame(now) {
    const { contextRate, latencyS, _anchor: anchor } = this;
    if (anchor) return anchor.frame + (now - anchor.at) * contextRate;
    return this._points.at(-1).frame + (now - this._arrived - latencyS) * contextRate;
  }
}
