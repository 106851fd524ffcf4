import { equal, ok, random, test, throws } from "/test/harness.js";
import { Call } from "/connection.js";
import { Outbox } from "/delivery.js";
import { afterClose } from "/errors.js";

const WELCOME = {
  type: "welcome",
  version: 1,
  session: "s_1",
  epoch: 1,
  resumed: false,
  token: "t_1",
  last: [1, 0],
  position: 0,
  grace_s: 30,
  heartbeat_s: 1,
  miss_s: 3,
};

function opened(fields = {}) {
  const call = new Call({ input: 16000, output: 24000, token: "key" });
  call.connect(0);
  call.nextFrame(0);
  call.receive(JSON.stringify({ ...WELCOME, ...fields }), 0);
  return call;
}

function written(call, now = 0) {
  const frames = [];
  for (let frame = call.nextFrame(now); frame !== null; frame = call.nextFrame(now)) {
    frames.push(typeof frame === "string" ? JSON.parse(frame) : userAudio(frame));
  }
  return frames;
}

function userAudio(frame) {
  const view = new DataView(frame);
  const header = view.getUint16(2, true);
  const place = { kind: view.getUint8(0), e: view.getUint32(4, true), n: Number(view.getBigUint64(8, true)) };
  return { ...place, position: Number(view.getBigUint64(16, true)), pcm: [...new Int16Array(frame, header)] };
}

function agentAudio(n, position, samples, { number = 1, e = 1, header = 32, last = false, odd = false } = {}) {
  const frame = new ArrayBuffer(header + 2 * samples + (odd ? 1 : 0));
  const view = new DataView(frame);
  view.setUint8(0, 0x12);
  view.setUint8(1, last ? 1 : 0);
  view.setUint16(2, header, true);
  view.setUint32(4, e, true);
  view.setBigUint64(8, BigInt(n), true);
  view.setBigUint64(16, BigInt(position), true);
  view.setUint32(24, number, true);
  return frame;
}

const say = (call, message, now = 0) => call.receive(JSON.stringify(message), now);
const event = (n, e = 1) => ({ type: "event", e, n, event: { type: "usage" } });

test("hello says what we are, and nothing else leaves before welcome", () => {
  const call = new Call({ input: 16000, output: 24000, token: "key", metadata: { language: "nb" } });
  call.sendInput({ type: "input.text", text: "early" });
  call.connect(0);
  const [hello, ...more] = written(call);
  equal(more, []);
  equal([hello.type, hello.versions, hello.token, hello.metadata], ["hello", [1], "key", { language: "nb" }]);
  equal(hello.capabilities, { acks: true, duck: true });
  equal([hello.input.rate, hello.output.rate, hello.resume], [16000, 24000, undefined]);
  say(call, WELCOME);
  const input = written(call).find((message) => message.type === "input");
  equal([input.e, input.n, input.input.text], [1, 1, "early"]);
});

test("a call without sound asks for none", () => {
  const call = new Call({ input: 0, output: 0 });
  call.connect(0);
  const [hello] = written(call);
  equal([hello.input, hello.output], [undefined, undefined]);
});

test("user audio and inputs are numbered together, in order, when they leave", () => {
  const call = opened();
  call.sendAudio(Int16Array.of(1, -2), 0);
  call.sendInput({ type: "input.text", text: "hi" });
  call.sendAudio(Int16Array.of(3), 2);
  const [audio, input, more] = written(call);
  equal(audio, { kind: 0x11, e: 1, n: 1, position: 0, pcm: [1, -2] });
  equal([input.e, input.n], [1, 2]);
  equal([more.n, more.position], [3, 2]);
});

test("events are taken once and in order; a hole ends the link with 4000", () => {
  const call = opened();
  equal(say(call, event(1)).length, 1);
  equal(say(call, event(1)).length, 0);
  equal(say(call, event(2)).length, 1);
  equal(throws(() => say(call, event(4)), "sequence").closeCode, 4000);
  equal(call.closeCode, 4000);
  equal(say(call, event(3)).length, 0, "after its end a link says nothing:");
});

test("an acknowledgement goes out after 32 messages or 250 ms", () => {
  const call = opened();
  for (let n = 1; n <= 32; n++) {
    equal(written(call).filter((message) => message.type === "ack").length, 0);
    say(call, event(n));
  }
  equal(written(call), [{ type: "ack", e: 1, n: 32 }]);
  say(call, event(33), 1);
  equal(call.deadline() <= 1.25, true);
  equal(written(call, 1.24).filter((message) => message.type === "ack").length, 0);
  equal(written(call, 1.25).filter((message) => message.type === "ack"), [{ type: "ack", e: 1, n: 33 }]);
});

test("agent audio needs its response declared, and begins where the header says", () => {
  const call = opened();
  equal(call.receive(agentAudio(1, 0, 10), 0)[0].code, "response");
  say(call, { type: "response", number: 1, response: "r_1" });
  const [audio] = call.receive(agentAudio(2, 10, 480, { header: 40, last: true }), 0);
  equal([audio.type, audio.response, audio.position, audio.pcm.length, audio.last], ["audio", "r_1", 10, 480, true]);
  equal(call.receive(agentAudio(3, 490, 4, { odd: true }), 0)[0].code, "audio_format");
  equal(call.receive(new ArrayBuffer(8), 0)[0].code, "unknown_frame");
  equal(call.receive(agentAudio(4, 490, 4), 0)[0].position, 490, "the link lives:");
});

test("audio below a cleared line that comes later is dropped, or what of it lies below", () => {
  const call = opened();
  say(call, { type: "response", number: 1, response: "a" });
  say(call, { type: "response", number: 2, response: "b" });
  equal(say(call, { type: "clear", c: 1, before: 1000, response: "a" })[0].before, 1000);
  equal(call.receive(agentAudio(1, 0, 480), 0), []);
  equal(call.receive(agentAudio(2, 480, 480, { number: 2 }), 0)[0].position, 480);
  const [rest] = call.receive(agentAudio(3, 960, 480), 0);
  equal([rest.position, rest.pcm.length], [1000, 440]);
});

test("a clear that was carried out is answered again in the same words", () => {
  const call = opened();
  equal(say(call, { type: "clear", c: 7, before: 1000 }).length, 1);
  equal(say(call, { type: "clear", c: 7, before: 1000 }).length, 0);
  call.cleared(7, 640, 3);
  say(call, { type: "clear", c: 7, before: 1000 });
  const answers = written(call).filter((message) => message.type === "cleared");
  equal(answers, Array(2).fill({ type: "cleared", c: 7, e: 1, played: 640, at: 3 }));
});

test("older gains than the last are not obeyed", () => {
  const call = opened();
  equal(say(call, { type: "duck", c: 8, gain_db: -15 }).length, 1);
  equal(say(call, { type: "duck", c: 8, gain_db: -15 }).length, 0);
  equal(say(call, { type: "duck", c: 9, gain_db: 0 }).length, 1);
});

test("playout positions only grow", () => {
  const call = opened();
  for (const position of [0, 100, 90, 100, 101]) call.played(position, 1);
  equal(written(call).map((message) => message.position), [100, 101]);
});

test("pings are answered and sent; silence ends the link", () => {
  const call = opened();
  call.tick(0);
  say(call, { type: "ping", t: 5 }, 0.5);
  equal(written(call), [{ type: "ping", t: 0 }, { type: "pong", t: 5, r: 0.5 }]);
  equal(call.deadline(), 1);
  for (const now of [1, 2, 3]) call.tick(now);
  equal(throws(() => call.tick(3.5), "link_dead").closeCode, 4010);
});

test("a page that slept itself does not blame the link", () => {
  const call = opened();
  call.tick(60);
  equal(call.closeCode, 0);
  throws(() => {
    call.tick(60.99);
    call.tick(61);
  }, "link_dead");
});

test("no welcome in time ends the link", () => {
  const call = new Call({ input: 0, output: 0 });
  call.connect(0);
  equal(call.deadline(), 10);
  throws(() => call.tick(10), "link_dead");
});

test("a resume replays what the server does not have, with its old numbers, then goes on", () => {
  const call = opened();
  for (let n = 0; n < 5; n++) call.sendAudio(Int16Array.of(n), n);
  say(call, { type: "response", number: 1, response: "r" });
  for (let n = 1; n <= 3; n++) say(call, event(n));
  written(call);
  say(call, { type: "ack", e: 1, n: 2 });
  call.played(77, 1);
  call.disconnected(2);
  call.sendAudio(Int16Array.of(5), 5);
  call.played(99, 2);
  call.connect(3);
  const [hello] = written(call, 3);
  equal(hello.resume, { session: "s_1", token: "t_1", last: [1, 3], played: 99, events: 3 });
  say(call, { ...WELCOME, resumed: true, token: "t_2", last: [1, 4] }, 3);
  const frames = written(call, 3);
  equal(frames[0], { type: "played", e: 1, position: 99, at: 3 }, "what was heard is said again:");
  const audio = frames.filter((message) => message.kind);
  equal(audio.map(({ n, position }) => [n, position]), [[5, 4], [6, 5]]);
  equal(call.receive(agentAudio(4, 0, 10), 3)[0].code, "response", "numbers are declared anew on each link:");
});

test("another owner is sent what it wants again, acknowledged or not, and is told how many events came", () => {
  const call = opened();
  for (let n = 0; n < 5; n++) call.sendAudio(Int16Array.of(n), n);
  say(call, event(1));
  say(call, { type: "gap", from: [1, 2], to: [1, 4], events: 2 });
  written(call);
  say(call, { type: "ack", e: 1, n: 4 });
  call.disconnected(2);
  call.connect(3);
  equal(written(call, 3)[0].resume.events, 3);
  say(call, { ...WELCOME, resumed: true, token: "t_2", epoch: 2, last: [1, 0], recall: 2 }, 3);
  call.sendAudio(Int16Array.of(5), 5);
  const frames = written(call, 3).filter((message) => message.kind || message.type === "gap");
  equal(frames[0], { type: "gap", from: [1, 1], to: [1, 2], events: 0, samples: 0, ms: 0, position: 0, why: "taken" });
  equal(frames.slice(1).map(({ e, n, position }) => [e, n, position]), [[1, 3, 2], [1, 4, 3], [1, 5, 4], [2, 1, 5]]);
  say(call, { type: "gap", from: [1, 5], to: [2, 0], events: -1, why: "unknown" }, 3);
  call.disconnected(4);
  call.connect(5);
  equal("events" in written(call, 5)[0].resume, false, "who has lost count says so:");
});

test("what was lost before it was acknowledged leaves no hole for another owner", () => {
  const outbox = new Outbox(1, 100, 25);
  outbox.push("audio 1", 10, 0);
  for (let n = 2; n <= 4; n++) outbox.push(`an event ${n}`);
  outbox.push("audio 5", 10, 10);
  outbox.ack([1, 5]);
  const gap = (why, from, to) => ({ type: "gap", from, to, events: 0, samples: 0, ms: 0, position: 0, why });
  const frames = outbox.recall(0, 16000).map((frame) => (frame.startsWith("{") ? JSON.parse(frame) : frame));
  equal(frames, ["audio 1", gap("taken", [1, 2], [1, 2]), "an event 3", "an event 4", "audio 5"]);
  equal(outbox.recall(10, 16000).map((frame) => (frame.startsWith("{") ? JSON.parse(frame) : frame)), [
    gap("taken", [1, 1], [1, 4]),
    "audio 5",
  ]);
});

test("a second cut before the replay was through loses nothing", () => {
  const call = opened();
  for (let n = 0; n < 4; n++) call.sendAudio(Int16Array.of(n), n);
  written(call);
  for (const [last, token] of [[1, "t_2"], [2, "t_3"]]) {
    call.disconnected(1);
    call.connect(1);
    call.nextFrame(1);
    say(call, { ...WELCOME, resumed: true, token, last: [1, last] }, 1);
    call.nextFrame(1);
  }
  equal(written(call, 1).filter((message) => message.kind).map(({ n }) => n), [4]);
});

test("what waits while away is bounded: the oldest audio goes, and shows as a step", () => {
  const call = opened();
  call.disconnected(0);
  call.sendInput({ type: "input.text", text: "kept" });
  for (let n = 0; n < 2000; n++) call.sendAudio(new Int16Array(320), 320 * n);
  call.connect(1);
  call.nextFrame(1);
  say(call, { ...WELCOME, resumed: true, token: "t_2" }, 1);
  const frames = written(call, 1);
  equal(frames[0].input.text, "kept");
  const audio = frames.filter((frame) => frame.kind);
  equal(audio[0].position, 500 * 320);
  equal(audio.reduce((sum, { pcm }) => sum + pcm.length, 0), 30 * 16000);
  equal(call.dropped, 500 * 320);
  ok(frames.length < 400, `${frames.length} messages at once would break the rate limit`);
  audio.reduce((end, { position, pcm }) => (equal(position, end), end + pcm.length), 160000);
});

test("what was sent but fell out of memory is reported as a gap", () => {
  const call = opened();
  for (let n = 0; n < 1600; n++) {
    call.sendAudio(new Int16Array(320), 320 * n);
    call.nextFrame(0);
    if (n === 10) call.sendInput({ type: "input.text", text: "kept" });
  }
  call.disconnected(1);
  call.connect(1);
  call.nextFrame(1);
  say(call, { ...WELCOME, resumed: true, last: [1, 3] }, 1);
  const frames = written(call, 1);
  equal(frames[0].type, "gap");
  equal([frames[0].from, frames[0].why, frames[0].position], [[1, 4], "overflow", 0]);
  let next = 4;
  for (const frame of frames) {
    if (frame.type === "gap") equal(frame.from[1], next);
    else equal(frame.n, next);
    next = frame.type === "gap" ? frame.to[1] + 1 : next + 1;
  }
  equal(next, 1602);
});

test("a new owner: numbering starts at 1 in its epoch, old positions stay", () => {
  const call = opened();
  for (let n = 0; n < 3; n++) call.sendAudio(Int16Array.of(n), n);
  say(call, event(1));
  written(call);
  call.disconnected(1);
  call.connect(1);
  call.nextFrame(1);
  say(call, { ...WELCOME, resumed: true, epoch: 2, last: [1, 2], token: "t_2" }, 1);
  call.sendAudio(Int16Array.of(3), 3);
  equal(written(call, 1).filter((m) => m.kind).map(({ e, n }) => [e, n]), [[1, 3], [2, 1]]);
  equal(say(call, { type: "gap", from: [1, 2], to: [2, 0], events: -1, samples: -1, ms: -1, why: "unknown" }, 1).length, 1);
  equal(say(call, event(1, 2), 1).length, 1);
});

test("a call may be resumed within its grace only", () => {
  const call = opened({ grace_s: 5 });
  equal(call.mayResume(100), true);
  call.disconnected(100);
  call.disconnected(104);
  equal([call.mayResume(104.9), call.mayResume(105)], [true, false]);
  equal(new Call({ input: 0, output: 0 }).mayResume(0), false);
});

test("hanging up says bye and nothing after it", () => {
  const call = opened();
  call.hangUp();
  call.sendAudio(Int16Array.of(1), 0);
  equal(written(call), [{ type: "bye", code: "hangup" }]);
  equal([call.closeCode, call.mayResume(0)], [1000, false]);
});

test("broken messages are reported, and the call lives; errors are not answered", () => {
  const call = opened();
  for (const text of ["{", "[]", "null", "7", '{"type":7}', '{"type":"dance"}']) {
    equal(call.receive(text, 0)[0].type, "refused");
  }
  equal(say(call, { type: "error", code: "input", message: "no" })[0].code, "input");
  equal(written(call).map((message) => message.type), Array(6).fill("error"));
  throws(() => say(call, WELCOME), "handshake");
});

test("what a close code asks for", () => {
  equal([1000, 1006, 1011, 4010, 4012, 4008, 4013, 3999].map((code) => afterClose(code)), ["over", ...Array(7).fill("resume")]);
  equal([4001, 4002, 4003, 4004, 4009, 4000].map((code) => afterClose(code)), Array(6).fill("stop"));
  equal(afterClose(4000, "sequence"), "resume");
});

test("whatever is sent, acknowledged and dropped, a replay has every position once and in order", () => {
  for (let seed = 1; seed <= 200; seed++) {
    const next = random(seed);
    const outbox = new Outbox(1, 50, 60);
    for (let step = 0; step < 120; step++) {
      const choice = next();
      if (choice < 0.5) outbox.push(`a${"x".repeat(next() * 10)}`, 1 + Math.floor(next() * 20), step);
      else if (choice < 0.8) outbox.push("e".repeat(1 + next() * 30));
      else outbox.ack([1, Math.floor(outbox.acked[1] + next() * (outbox.sent[1] - outbox.acked[1] + 1))]);
      const after = [1, Math.floor(outbox.acked[1] + next() * (outbox.sent[1] - outbox.acked[1] + 1))];
      let n = after[1];
      for (const part of outbox.parts.filter((part) => part.to[1] > after[1])) {
        ok(Math.max(part.from[1], after[1] + 1) === n + 1, `seed ${seed}: a hole at ${n}`);
        n = part.to[1];
      }
      equal(n, outbox.sent[1]);
      equal(outbox.replay(after, 16000).length, outbox.parts.filter((part) => part.to[1] > after[1]).length);
      ok(outbox.samples <= 50 && outbox.bytes <= 60, "memory is not bounded");
      for (let i = 1; i < outbox.parts.length; i++) ok(outbox.parts[i - 1].data || outbox.parts[i].data, "two gaps in a row");
    }
  }
});
