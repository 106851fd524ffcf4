import { equal, near, ok, test } from "/test/harness.js";
import { Capture } from "/capture.js";

function capture(contextRate, rate, seconds, signal, { muteAt = Infinity } = {}) {
  const frames = [];
  const taker = new Capture(contextRate, rate, (frame) => frames.push(frame));
  const block = new Float32Array(128);
  for (let at = 0; at < contextRate * seconds; at += 128) {
    for (let n = 0; n < 128; n++) block[n] = signal((at + n) / contextRate);
    taker.muted = at >= muteAt * contextRate;
    taker.push(block);
  }
  return frames;
}

const tone = (t) => 0.5 * Math.sin(2 * Math.PI * 440 * t);

test("frames of 20 ms follow each other without a step, at the right time", () => {
  for (const contextRate of [48000, 44100, 16000]) {
    const frames = capture(contextRate, 16000, 1, tone);
    ok(frames.length >= 49);
    frames.forEach((frame, index) => equal([frame.position, frame.pcm.length], [320 * index, 320]));
    const [sample] = frames[20].pcm;
    near(sample / 32767, tone(6400 / 16000), 0.002);
    near(frames[20].level, 0.5 / Math.SQRT2, 0.01);
  }
});

test("a muted microphone is silent, and time goes on", () => {
  const frames = capture(48000, 16000, 1, tone, { muteAt: 0.5 });
  equal(frames.at(-1).position, 320 * (frames.length - 1));
  ok(frames[20].pcm.some((sample) => sample !== 0));
  ok(frames[30].pcm.every((sample) => sample === 0));
  equal(frames[30].level, 0);
});

test("what is too loud is clipped, not wrapped", () => {
  const frames = capture(16000, 16000, 0.2, (t) => 3 * Math.sin(2 * Math.PI * 100 * t));
  const samples = frames.flatMap((frame) => [...frame.pcm]);
  equal([Math.max(...samples), Math.min(...samples)], [32767, -32768]);
});
