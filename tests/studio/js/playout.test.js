import { equal, near, ok, random, test } from "/test/harness.js";
import { Playout } from "/playout.js";

const RATE = 24000;
const CONTEXT = 48000;

test("what was rendered is heard after the output latency, not before", () => {
  const playout = new Playout(RATE, CONTEXT);
  playout.sync({ contextTime: 0, at: 0, latencyS: 0.05 }); // a browser that knows no timestamps
  playout.point(0, 0, true, 10);
  playout.point(4800, 2400, true, 10.1);
  equal(playout.audible(10.1), 1200);
  equal(playout.audible(10.149), 2376);
  equal(playout.audible(11), 2400, "nothing is heard that was not rendered:");
});

test("the context's own timestamp counts where there is one", () => {
  const playout = new Playout(RATE, CONTEXT);
  playout.sync({ contextTime: 2, at: 100, latencyS: 0.5 });
  playout.point(96000, 0, true, 99);
  playout.point(100800, 2400, false, 99.1);
  equal(playout.audible(99.9), 0);
  equal(playout.audible(100.05), 1200);
  equal(playout.audible(101), 2400);
  near(playout.leaves(100800, 99.1), 100.1, 1e-9);
});

test("a stretch that was cleared is stepped over, not run through", () => {
  const playout = new Playout(RATE, CONTEXT);
  playout.sync({ contextTime: 1, at: 1, latencyS: 0 });
  playout.point(48000, 1000, true, 1);
  playout.point(48100, 1050, false, 1); // a clear
  playout.point(48960, 9000, true, 1);
  equal(playout.audible(1 + 90 / CONTEXT), 1045);
  equal(playout.audible(1 + 500 / CONTEXT), 1050);
  equal(playout.audible(1 + 959 / CONTEXT), 1050);
  equal(playout.audible(1 + 960 / CONTEXT), 9000);
});

test("reports come every 100 ms, and at once at the end", () => {
  const playout = new Playout(RATE, CONTEXT);
  playout.sync({ contextTime: 1, at: 1, latencyS: 0 });
  for (let n = 0; n <= 50; n++) playout.point(48000 + 960 * n, 480 * n, n < 50, 1 + n / 50);
  const reports = [];
  for (let ms = 0; ms <= 1500; ms += 20) {
    const position = playout.report(1 + ms / 1000);
    if (position !== null) reports.push([ms, position]);
  }
  equal(reports.at(-1), [1000, 24000]);
  for (let n = 1; n < reports.length - 1; n++) ok([100, 120].includes(reports[n][0] - reports[n - 1][0]));
  ok(playout.settled);
});

test("reports only grow and never lead what was rendered, however messages and clocks jitter", () => {
  for (let seed = 1; seed <= 40; seed++) {
    const next = random(seed);
    const playout = new Playout(RATE, CONTEXT);
    const latency = 0.01 + next() / 10;
    let frame = 0;
    let position = 0;
    let last = 0;
    for (let n = 0; n < 400; n++) {
      const now = frame / CONTEXT + next() / 50;
      if (n % 10 === 0) playout.sync({ contextTime: Math.max(0, now - latency), at: now, latencyS: latency });
      frame += 960;
      if (next() < 0.1) position += Math.floor(next() * 5000);
      else position += 480;
      playout.point(frame, position, next() < 0.9, now);
      const report = playout.report(now);
      if (report === null) continue;
      ok(report > last && report <= position, `seed ${seed}: ${report} of ${position}`);
      last = report;
    }
  }
});
