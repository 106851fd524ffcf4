import { equal, near, ok, random, test } from "/test/harness.js";
import { Resampler } from "/resample.js";

const RATES = [
  [48000, 16000],
  [44100, 16000],
  [16000, 16000],
  [8000, 16000],
  [96000, 16000],
  [24000, 48000],
  [24000, 44100],
  [24000, 16000],
  [48000, 24000],
];

function sine(frequency, rate, count) {
  return Float32Array.from({ length: count }, (_, n) => Math.sin((2 * Math.PI * frequency * n) / rate));
}

function resample(from, to, input) {
  const resampler = new Resampler(from, to);
  resampler.push(input);
  const out = new Float32Array(resampler.ready);
  resampler.pull(out, 0, out.length);
  return out;
}

/** RMS of the middle of `samples`, in dB below a full sine. */
function level(samples) {
  const middle = samples.subarray(samples.length / 4, (3 * samples.length) / 4);
  const power = middle.reduce((sum, sample) => sum + sample * sample, 0) / middle.length;
  return 10 * Math.log10(2 * power + 1e-20);
}

for (const [from, to] of RATES) {
  test(`${from} to ${to}: output n is the input at n * from / to`, () => {
    const out = resample(from, to, sine(440, from, from / 4));
    ok(out.length > 0.24 * to, `only ${out.length}`);
    for (let n = 200; n < out.length; n++) near(out[n], Math.sin((2 * Math.PI * 440 * n) / to), 2e-3, `at ${n}:`);
  });

  test(`${from} to ${to}: the band is kept, and nothing folds back into it`, () => {
    const nyquist = Math.min(from, to) / 2;
    ok(level(resample(from, to, sine(0.85 * nyquist, from, from / 4))) > -1, "the band is cut");
    if (to >= from) return;
    for (const factor of [1.1, 1.2, 1.5, 1.9]) {
      if (factor * nyquist >= 0.98 * (from / 2)) continue;
      const alias = level(resample(from, to, sine(factor * nyquist, from, from / 4)));
      ok(alias < -80, `${factor} times Nyquist comes back at ${alias} dB`);
    }
  });

  test(`${from} to ${to}: chunks do not matter, and wants() is exact`, () => {
    const next = random(from + to);
    const input = Float32Array.from({ length: 9000 }, () => next() - 0.5);
    const whole = resample(from, to, input);
    const resampler = new Resampler(from, to);
    const out = new Float32Array(whole.length);
    let fed = 0;
    let at = 0;
    while (at < whole.length) {
      const count = Math.min(whole.length - at, 1 + Math.floor(next() * 300));
      const wanted = resampler.wants(count);
      resampler.push(input.subarray(fed, fed + wanted));
      fed += wanted;
      ok(resampler.ready >= count, "wants() asked for too little");
      if (wanted > 0) {
        const before = new Resampler(from, to);
        before.push(input.subarray(0, fed - 1));
        ok(before.ready < at + count, "wants() asked for too much");
      }
      resampler.pull(out, at, count);
      at += count;
      near(resampler.centre, (at * from) / to, 1e-6);
    }
    equal([...out], [...whole]);
  });
}

test("the delay is at most 2 ms", () => {
  for (const [from, to] of RATES) ok(new Resampler(from, to).half / from <= 0.002 + 1e-9 || to === 8000 || from === 8000);
});

test("rates that are none are refused", () => {
  for (const rate of [0, -1, 44100.5, NaN]) {
    let refused = false;
    try {
      new Resampler(rate, 16000);
    } catch (error) {
      refused = error instanceof RangeError;
    }
    ok(refused, `${rate}`);
  }
});
