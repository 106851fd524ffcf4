import { equal, near, ok, random, test } from "/test/harness.js";
import { Player } from "/player.js";

const RATE = 24000;
const BLOCK = 128;

/** `count` samples that are never 0, so that what was rendered can be counted. */
function loud(count, value = 8000) {
  return new Int16Array(count).fill(value);
}

function frame(position, count, { response = "r", last = false, value = 8000 } = {}) {
  return { pcm: loud(count, value), position, response, last };
}

function render(player, blocks) {
  const out = new Float32Array(blocks * BLOCK);
  for (let n = 0; n < blocks; n++) player.render(out.subarray(n * BLOCK, (n + 1) * BLOCK));
  return out;
}

const sounding = (out) => out.filter((sample) => sample !== 0).length;

test("at the track's own rate the position is the number of samples that came out", () => {
  const player = new Player(RATE, RATE);
  for (let n = 0; n < 50; n++) player.write(frame(480 * n, 480, { last: n === 49 }));
  let total = 0;
  for (let n = 0; n < 300; n++) {
    total += sounding(render(player, 1));
    ok(player.position <= total, `${player.position} is more than ${total}`);
    near(player.position, total, 1);
  }
  equal([player.position, total, player.dry, player.playing], [24000, 24000, true, false]);
});

for (const contextRate of [48000, 44100, 16000]) {
  test(`at ${contextRate} Hz the position keeps up with what was rendered, and never leads it`, () => {
    const player = new Player(RATE, contextRate);
    for (let n = 0; n < 25; n++) player.write(frame(480 * n, 480, { last: n === 24 }));
    for (let blocks = 1; !player.dry; blocks++) {
      render(player, 1);
      if (player.dry) break;
      const ran = (blocks * BLOCK * RATE) / contextRate;
      ok(player.position <= ran + 1e-6 && player.position >= ran - 1.01, `${player.position} after ${ran}`);
    }
    equal(player.position, 12000);
  });
}

test("speech waits for its first 30 ms, or for its end, or for 30 ms", () => {
  const waits = new Player(RATE, RATE);
  waits.write(frame(0, 480));
  equal(sounding(render(waits, 2)), 0);
  waits.write(frame(480, 480));
  ok(sounding(render(waits, 1)) > 0);
  const short = new Player(RATE, RATE);
  short.write(frame(0, 480, { last: true }));
  ok(sounding(render(short, 1)) > 0);
  const late = new Player(RATE, RATE);
  late.write(frame(0, 480));
  equal(sounding(render(late, 5)), 0);
  ok(sounding(render(late, 1)) > 0);
});

test("a clear silences within 10 ms, says where, and what comes later plays", () => {
  for (const contextRate of [RATE, 48000, 44100]) {
    const player = new Player(RATE, contextRate);
    for (let n = 0; n < 100; n++) player.write(frame(480 * n, 480));
    const before = render(player, 20);
    const out = new Float32Array(4 * BLOCK);
    const end = player.clear({ before: 48000 }, out.subarray(0, BLOCK), 0);
    const { position } = player;
    ok(end <= 0.01 * contextRate);
    for (let n = 0; n < 4; n++) player.render(out.subarray(n ? n * BLOCK : end, (n + 1) * BLOCK));
    equal(sounding(out.subarray(end)), 0);
    near(position, ((before.length + end) * RATE) / contextRate, 1.01, `at ${contextRate}:`);
    equal([player.position, player.dry], [position, true]);
    player.write(frame(48000, 480, { last: true }));
    render(player, 20);
    equal(player.position, 48480);
  }
});

test("a clear of one response leaves the others", () => {
  const player = new Player(RATE, RATE);
  player.write(frame(0, 960, { response: "a" }));
  player.write(frame(960, 960, { response: "b", value: 4000 }));
  render(player, 1);
  const out = new Float32Array(BLOCK);
  const end = player.clear({ before: 960, response: "a" }, out, 0);
  ok(player.position < 960);
  player.render(out, end);
  const rest = render(player, 20);
  equal(sounding(out.subarray(end)) + sounding(rest), 960);
  equal(player.position, 1920);
  ok(Math.max(...rest) < 0.13, "something of the cleared response was heard");
});

test("a clear of what does not sound now leaves what does", () => {
  const player = new Player(RATE, RATE);
  player.write(frame(0, 960, { response: "a" }));
  player.write(frame(960, 960, { response: "b" }));
  const first = sounding(render(player, 1));
  equal(player.clear({ before: 1920, response: "b" }, new Float32Array(BLOCK), 0), 0);
  equal(first + sounding(render(player, 20)), 960);
  equal(player.position, 960);
});

test("a clear below a line cuts a frame that lies across it", () => {
  const player = new Player(RATE, RATE);
  player.write(frame(0, 960));
  player.clear({ before: 500 }, new Float32Array(BLOCK), 0);
  player.write(frame(960, 960));
  equal(sounding(render(player, 20)), 460 + 960);
});

test("ducking ramps to its gain and back", () => {
  const player = new Player(RATE, RATE);
  player.write(frame(0, 24000, { value: 16384 }));
  render(player, 2);
  player.duck(-20, 10);
  const down = render(player, 4);
  near(down[0], 0.5, 0.01);
  near(down[120], 0.275, 0.01);
  near(down.at(-1), 0.05, 1e-4);
  for (let n = 1; n < down.length; n++) ok(down[n] <= down[n - 1] + 1e-7);
  player.duck(0, 0);
  near(render(player, 1).at(-1), 0.5, 1e-4);
  player.duck(12, 0);
  near(render(player, 1).at(-1), 0.5, 1e-4);
});

test("a flood is bounded, and what did not fit is counted", () => {
  const player = new Player(RATE, RATE);
  for (let n = 0; n < 100; n++) player.write(frame(RATE * n, RATE));
  equal(player.dropped, 10 * RATE);
});

test("whatever happens, the position is true and never goes back", () => {
  for (let seed = 1; seed <= 60; seed++) {
    const next = random(seed);
    const player = new Player(RATE, RATE);
    let end = 0;
    let before = 0;
    let heard = 0;
    let skipped = 0; // positions that will never sound
    for (let step = 0; step < 200; step++) {
      const choice = next();
      if (choice < 0.55) {
        const count = 1 + Math.floor(next() * 700);
        player.write(frame(end, count, { last: next() < 0.2 }));
        end += count;
      } else if (choice < 0.6) {
        const out = new Float32Array(BLOCK);
        const stop = player.clear({ before: end }, out, 0);
        heard += sounding(out.subarray(0, Math.max(0, stop - 1))) + (stop ? 1 : 0);
        skipped = end - heard;
        equal(player.dry, true);
      } else {
        heard += sounding(render(player, 1 + Math.floor(next() * 4)));
      }
      ok(player.position >= before, "went back");
      before = player.position;
      ok(player.position <= heard + skipped + 1, `seed ${seed}: ${player.position} with ${heard} heard, ${skipped} skipped`);
    }
  }
});
