// The smallest test runner: `test(name, body)` now, `run()` at the end; results go to window.results.

const tests = [];

export function test(name, body) {
  tests.push({ name, body });
}

export function ok(value, message = "not true") {
  if (!value) throw new Error(message);
}

export function equal(actual, expected, message = "") {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${message} ${a} is not ${b}`);
}

export function near(actual, expected, within, message = "") {
  if (!(Math.abs(actual - expected) <= within)) throw new Error(`${message} ${actual} is not within ${within} of ${expected}`);
}

export function throws(body, code) {
  try {
    body();
  } catch (error) {
    if (error.code !== code) throw error;
    return error;
  }
  throw new Error(`no error ${code}`);
}

/** Numbers from 0 to 1, the same ones for the same seed. */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export async function run() {
  const results = [];
  for (const { name, body } of tests) {
    try {
      await body();
      results.push({ name, error: "" });
    } catch (error) {
      results.push({ name, error: `${error.message}\n${error.stack}` });
    }
  }
  window.results = results;
  document.body.dataset.done = "";
}
