// What the transcript shows: a list of entries, made from the events of a session. No DOM here.

const KEPT = 400;

/** [heard, not heard] parts of `text`. */
export function split(text, heard) {
  let end = 0;
  while (end < heard.length && heard[end] === text[end]) end++;
  while (/\s/.test(text[end] ?? "")) end++;
  return [text.slice(0, end), text.slice(end)];
}

/** Steps of a turn's waterfall, from the end of the user's speech: [{ name, ms, at }]. */
export function waterfall(points) {
  let before = 0;
  const steps = [];
  for (const [name, at] of Object.entries(points).sort((a, b) => a[1] - b[1])) {
    if (name === "user_speech_start" || name === "user_speech_end") continue;
    const end = Math.max(before, at, 0);
    steps.push({ name, at, ms: end - before });
    before = end;
    if (name === "first_sample") break;
  }
  return steps;
}

export class Conversation {
  /** `changed(entry)` and `removed(entry)` are called as entries come, change and go. */
  constructor({ changed, removed }) {
    this.entries = new Map();
    this.changed = changed;
    this.removed = removed;
    this.notes = 0;
    this.agentSpeaks = "";
    this.userSpeaks = false;
    this.toolsRunning = new Set();
    this.turn = "";
  }

  apply(event) {
    handlers[event.type]?.call(this, event);
  }

  /** A line of its own; `tone`: info, warn or error. */
  note(text, tone = "info") {
    this._put(`n:${++this.notes}`, { kind: "note", text, tone });
  }

  /** The call is over: what was open stays as it is. */
  end() {
    this.agentSpeaks = "";
    this.userSpeaks = false;
    this.toolsRunning.clear();
    for (const { kind, status, call, response } of [...this.entries.values()]) {
      if (kind === "tool" && ["running", "waiting"].includes(status)) this._tool(call, { status: "ended", approval: false });
      if (kind === "agent" && !status) this._agent(response, { status: "ended" });
    }
  }

  _put(id, fields, initial) {
    let entry = this.entries.get(id);
    if (!entry) {
      entry = { id, ...initial };
      this.entries.set(id, entry);
      if (this.entries.size > KEPT) this._drop(this.entries.keys().next().value);
    }
    Object.assign(entry, fields);
    this.changed(entry);
    return entry;
  }

  _drop(id) {
    const entry = this.entries.get(id);
    this.entries.delete(id);
    if (entry) this.removed(entry);
  }

  _user(turn, fields) {
    return this._put(`u:${turn}`, fields, { kind: "user", turn, text: "", final: false, discarded: "" });
  }

  _agent(response, fields) {
    const initial = { kind: "agent", response, turn: "", origin: "", text: "", heard: "", status: "", stage: "" };
    return this._put(`a:${response}`, fields, { ...initial, record: null });
  }

  _tool(call, fields) {
    const initial = { kind: "tool", call, name: "", arguments: {}, status: "running", progress: "", error: "" };
    return this._put(`t:${call}`, fields, { ...initial, output: undefined, seconds: 0, approval: false });
  }
}

const handlers = {
  "user.speech_started"() {
    this.userSpeaks = true;
  },
  "user.speech_stopped"() {
    this.userSpeaks = false;
  },
  "user.transcript"({ turn, text, final }) {
    if (text) this._user(turn, { text, final: Boolean(final) });
  },
  "turn.committed"({ turn, text }) {
    this.turn = turn;
    if (text) this._user(turn, { text, final: true, discarded: "" });
  },
  "turn.discarded"({ turn, text, reason }) {
    const known = this.entries.get(`u:${turn}`);
    if (text || known?.text) this._user(turn, { text: text || known.text, final: true, discarded: reason });
  },
  "response.started"({ response, origin = "turn", turn = "" }) {
    // What is said with a tool's result still answers the turn that asked for it.
    this._agent(response, { origin, turn: turn || (origin === "tool" ? this.turn : "") });
  },
  "response.text"({ response, text }) {
    const entry = this._agent(response, {});
    this._agent(response, { text: entry.text + text });
    this.agentSpeaks = response;
  },
  "response.heard"({ response, text }) {
    this._agent(response, { heard: text });
  },
  "response.finished"({ response, status, text = "", heard = "" }) {
    if (this.agentSpeaks === response) this.agentSpeaks = "";
    const entry = this._agent(response, {});
    if (!text && !entry.text) this._drop(`a:${response}`);
    else this._agent(response, { status, heard, text: text || entry.text });
  },
  interruption({ response, stage }) {
    this._agent(response, { stage });
  },
  "tool.started"({ call, name, arguments: given = {} }) {
    this.toolsRunning.add(call);
    this._tool(call, { name, arguments: given, status: "running", approval: false });
  },
  "tool.approval_needed"({ call, name, arguments: given = {} }) {
    this._tool(call, { name, arguments: given, status: "waiting", approval: true });
  },
  "tool.progress"({ call, name, message }) {
    this._tool(call, { name, progress: message });
  },
  "tool.finished"({ call, name, status, output, error = "", duration_s: seconds = 0 }) {
    this.toolsRunning.delete(call);
    this._tool(call, { name, status, output, error, seconds, approval: false });
  },
  "turn.measured"({ turn, record }) {
    const first = [...this.entries.values()].find((entry) => entry.kind === "agent" && entry.turn === turn);
    if (first) this._agent(first.response, { record });
  },
  "connection.lost"({ model, reason, retry_in_s: retry = 0 }) {
    this.note(`The link to ${model} was lost (${reason})${retry < 0 ? "" : "; it is being renewed"}.`, "warn");
  },
  "session.going_away"({ in_s: seconds, reason }) {
    this.note(`The call will end in ${Math.round(seconds)} s: ${reason}.`, "warn");
  },
  error({ message, fatal }) {
    this.note(message, fatal ? "error" : "warn");
  },
};
