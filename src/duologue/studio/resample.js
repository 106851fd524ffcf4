// Streaming resampling by a rational factor: a polyphase windowed-sinc filter.
//
// Output n lies at input time n * M / L (out / in = L / M in lowest terms), so positions on both sides convert exactly and
// nothing drifts. The filter looks ZEROS samples of the lower rate ahead: 1.25 ms at 16 kHz. Kaiser window: what would
// alias from 1.1 times the lower Nyquist frequency is 80 dB down; up to 0.85 times it loses less than 1 dB.

const ZEROS = 20;
const BETA = 8.5;
const CUTOFF = 0.96;

function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}

/** Modified Bessel function of the first kind, order 0, by its power series. */
function bessel0(x) {
  let sum = 1;
  for (let term = 1, k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

/** One row of 2 * half coefficients a phase; row p is centred p / phases after its middle. */
function design(phases, half, bandwidth) {
  const rows = new Float32Array(phases * 2 * half);
  const scale = 1 / bessel0(BETA);
  for (let phase = 0; phase < phases; phase++) {
    const row = rows.subarray(phase * 2 * half, (phase + 1) * 2 * half);
    let sum = 0;
    for (let k = 0; k < row.length; k++) {
      const x = k - half + 1 - phase / phases;
      const inside = 1 - (x / half) ** 2;
      const window = inside > 0 ? bessel0(BETA * Math.sqrt(inside)) * scale : 0;
      const angle = Math.PI * bandwidth * x;
      row[k] = (angle === 0 ? 1 : Math.sin(angle) / angle) * window;
      sum += row[k];
    }
    for (let k = 0; k < row.length; k++) row[k] /= sum;
  }
  return rows;
}

/** Float samples at `from` Hz in, at `to` Hz out. */
export class Resampler {
  constructor(from, to) {
    if (!Number.isInteger(from) || !Number.isInteger(to) || from <= 0 || to <= 0) {
      throw new RangeError(`Cannot resample from ${from} to ${to} Hz: rates are whole numbers above 0.`);
    }
    const common = gcd(from, to);
    this.up = to / common;
    this.down = from / common;
    const lower = Math.min(1, to / from);
    const same = from === to;
    this.half = same ? 1 : Math.ceil(ZEROS / lower);
    this.rows = same ? Float32Array.of(1, 0) : design(this.up, this.half, lower * CUTOFF);
    this.reset();
  }

  /** Forget everything: the next sample pushed is the first. */
  reset() {
    // The samples before the first are silence, so that the first output is centred on the first input.
    this.buffer = new Float32Array(4096);
    this.first = 1 - this.half; // input index of buffer[0]
    this.filled = this.half - 1;
    this.base = 0; // the next output lies at base + phase / up
    this.phase = 0;
  }

  /** Input time of the next output, in samples since the first one. */
  get centre() {
    return this.base + this.phase / this.up;
  }

  /** Inputs pushed so far. */
  get pushed() {
    return this.first + this.filled;
  }

  /** How many more inputs `count` outputs need. */
  wants(count) {
    if (count <= 0) return 0;
    const last = this.base + Math.floor((this.phase + (count - 1) * this.down) / this.up);
    return Math.max(0, last + this.half + 1 - this.pushed);
  }

  /** Outputs that can be pulled now. */
  get ready() {
    const room = (this.pushed - this.half - 1 - this.base + 1) * this.up - this.phase;
    return room <= 0 ? 0 : Math.ceil(room / this.down);
  }

  push(samples) {
    if (this.filled + samples.length > this.buffer.length) this._makeRoom(samples.length);
    this.buffer.set(samples, this.filled);
    this.filled += samples.length;
  }

  pushSilence(count) {
    if (this.filled + count > this.buffer.length) this._makeRoom(count);
    this.buffer.fill(0, this.filled, this.filled + count);
    this.filled += count;
  }

  /** Write `count` outputs (at most `ready`) to `out` from `at` on. */
  pull(out, at, count) {
    const { rows, buffer, up, down, half } = this;
    const length = 2 * half;
    let { base, phase } = this;
    for (let n = 0; n < count; n++) {
      const start = base - half + 1 - this.first;
      const row = phase * length;
      let sum = 0;
      for (let k = 0; k < length; k++) sum += rows[row + k] * buffer[start + k];
      out[at + n] = sum;
      phase += down;
      base += Math.floor(phase / up);
      phase %= up;
    }
    this.base = base;
    this.phase = phase;
  }

  _makeRoom(count) {
    const unneeded = Math.min(this.filled, Math.max(0, this.base - this.half + 1 - this.first));
    this.buffer.copyWithin(0, unneeded, this.filled);
    this.first += unneeded;
    this.filled -= unneeded;
    if (this.filled + count > this.buffer.length) {
      const grown = new Float32Array(2 * (this.filled + count));
      grown.set(this.buffer.subarray(0, this.filled));
      this.buffer = grown;
    }
  }
}
