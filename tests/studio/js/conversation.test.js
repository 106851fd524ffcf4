import { equal, ok, test } from "/test/harness.js";
import { Conversation, split, waterfall } from "/conversation.js";

function conversation(...events) {
  const removed = [];
  const made = new Conversation({ changed: () => {}, removed: (entry) => removed.push(entry.id) });
  for (const event of events) made.apply(event);
  return { made, removed, entries: [...made.entries.values()] };
}

test("heard and unheard text are told apart", () => {
  equal(split("One two three", "One two "), ["One two ", "three"]);
  equal(split("One two", "One two"), ["One two", ""]);
  equal(split("One two three", "One two"), ["One two ", "three"]);
  equal(split("One two. ", "One two."), ["One two. ", ""]);
  equal(split("One two", ""), ["", "One two"]);
  equal(split("One two", "One 2"), ["One ", "two"]);
});

test("a waterfall runs from the end of speech to the first sound", () => {
  const points = { user_speech_start: -900, user_speech_end: 0, llm_first_token: -20, committed: 300, first_sample: 450, tts_first_audio: 420 };
  equal(waterfall(points), [
    { name: "llm_first_token", at: -20, ms: 0 },
    { name: "committed", at: 300, ms: 300 },
    { name: "tts_first_audio", at: 420, ms: 120 },
    { name: "first_sample", at: 450, ms: 30 },
  ]);
  equal(waterfall({}), []);
});

test("an interrupted answer keeps what was heard apart from what was not", () => {
  const { entries } = conversation(
    { type: "response.started", response: "r", turn: "t" },
    { type: "response.text", response: "r", text: "One two. " },
    { type: "response.text", response: "r", text: "Three." },
    { type: "response.heard", response: "r", text: "One ", ms: 300 },
    { type: "interruption", response: "r", stage: "yield", reason: "speech" },
    { type: "response.finished", response: "r", status: "interrupted", text: "One two. Three.", heard: "One two. ", heard_ms: 600 },
    { type: "turn.measured", turn: "t", record: { points_ms: {} } },
  );
  equal(entries.length, 1);
  equal([entries[0].status, entries[0].heard, entries[0].text], ["interrupted", "One two. ", "One two. Three."]);
  ok(entries[0].record);
});

test("the measure of a turn stands at its first answer, also if a tool gave it", () => {
  const { entries } = conversation(
    { type: "turn.committed", turn: "t", text: "Where?", reason: "end" },
    { type: "response.started", response: "r1", turn: "t" },
    { type: "response.finished", response: "r1", status: "completed" },
    { type: "response.started", response: "r2", origin: "tool" },
    { type: "response.text", response: "r2", text: "Here." },
    { type: "response.started", response: "r3", origin: "tool" },
    { type: "response.text", response: "r3", text: "And there." },
    { type: "turn.measured", turn: "t", record: { points_ms: {} } },
  );
  equal(entries.filter(({ record }) => record).map(({ response }) => response), ["r2"]);
});

test("a user's words change until they are final; what was no turn is kept apart", () => {
  const { entries } = conversation(
    { type: "user.speech_started", position: 0 },
    { type: "user.transcript", turn: "t1", text: "next" },
    { type: "user.transcript", turn: "t1", text: "next stop", final: true },
    { type: "turn.committed", turn: "t1", text: "Next stop?", reason: "end" },
    { type: "user.transcript", turn: "t2", text: "uh-huh" },
    { type: "turn.discarded", turn: "t2", reason: "backchannel", text: "uh-huh" },
    { type: "turn.discarded", turn: "t3", reason: "noise" },
  );
  equal(entries.map(({ text, final, discarded }) => [text, final, discarded]), [
    ["Next stop?", true, ""],
    ["uh-huh", true, "backchannel"],
  ]);
});

test("a tool waits for approval, runs, says how far it is, and ends", () => {
  const { made, entries } = conversation({ type: "tool.approval_needed", call: "c", name: "pay", arguments: { sum: 3 } });
  equal([entries[0].status, entries[0].approval], ["waiting", true]);
  made.apply({ type: "tool.started", call: "c", name: "pay", arguments: { sum: 3 } });
  made.apply({ type: "tool.progress", call: "c", name: "pay", message: "half" });
  equal([entries[0].status, entries[0].approval, entries[0].progress], ["running", false, "half"]);
  made.apply({ type: "tool.finished", call: "c", name: "pay", status: "error", error: "no money" });
  equal([entries[0].status, entries[0].error, made.toolsRunning.size], ["error", "no money", 0]);
});

test("what is open when the call ends is closed", () => {
  const { made, entries } = conversation(
    { type: "tool.approval_needed", call: "c", name: "pay" },
    { type: "response.started", response: "r" },
    { type: "response.text", response: "r", text: "One two" },
  );
  made.end();
  equal(entries.map(({ status, approval = false }) => [status, approval]), [["ended", false], ["ended", false]]);
  equal(made.agentSpeaks, "");
});

test("an answer that said nothing leaves no entry; unknown events are ignored", () => {
  const { made, removed } = conversation(
    { type: "response.started", response: "r" },
    { type: "response.finished", response: "r", status: "cancelled" },
    { type: "something.new" },
    { type: "constructor" },
  );
  equal([made.entries.size, removed], [0, ["a:r"]]);
});

test("a long conversation lets its oldest entries go", () => {
  const { made, removed } = conversation();
  for (let n = 0; n < 450; n++) made.note(`${n}`);
  equal([made.entries.size, removed.length], [400, 50]);
});
