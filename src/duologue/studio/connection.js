// The client's side of a call, without I/O and without a clock: one object for the whole call, over all its links.
//
// The driver (line.js) owns sockets and time, in seconds:
//   call.connect(now)               a WebSocket is open: hello is ready to be written
//   call.receive(data, now)         returns what it says: objects with `type`
//   call.nextFrame(now)             the next frame to be written, numbered at this moment; null: nothing is ready
//   call.tick(now)                  when now >= call.deadline()
//   call.disconnected(now)          the WebSocket is gone: connect again while call.mayResume(now)
// A ProtocolError with `closeCode` means that the link must end; `call.closeCode` keeps it.

import { Heartbeat, Inbox, Outbox } from "./delivery.js";
import { ProtocolError } from "./errors.js";
import { decodeAgentAudio, encodeUserAudio } from "./frames.js";

const VERSION = 1;
const OPENING_S = 10;
const KEEP_S = 30;
const MAX_INPUTS = 1024;
const REMEMBERED = 256;
/** What waited while the link was away goes out in frames of up to this length, to stay within the server's rate. */
const MERGED_S = 0.1;
const BACKLOG = 10;

export class Call {
  /** `input`, `output`: rates in Hz, 0 for none. */
  constructor({ input, output, client = {}, token = "", metadata = {} }) {
    Object.assign(this, { input, output, client, token, metadata });
    this.session = "";
    this.epoch = 0;
    this.over = false;
    this.live = false;
    this.closeCode = 0;
    this.fatal = "";
    this.dropped = 0;
    this.position = 0;
    this._resumeToken = "";
    this._events = 0; // had so far, or lost in gaps; null: nobody knows any more
    this._graceS = 0;
    this._graceUntil = null;
    this._outbox = null;
    this._inbox = null;
    this._heartbeat = null;
    this._openBy = null;
    this._control = [];
    this._replay = [];
    this._queue = [];
    this._queuedSamples = 0;
    this._queuedInputs = 0;
    this._responses = new Map();
    this._played = 0;
    this._answers = new Map();
    this._floor = 0;
    this._floors = new Map();
    this._duck = 0;
  }

  // -- links ----------------------------------------------------------------------------------------------------------

  connect(now) {
    this.live = false;
    this.closeCode = 0;
    this.fatal = "";
    this._openBy = now + OPENING_S;
    this._heartbeat = null;
    this._replay = [];
    this._responses.clear();
    const hello = { type: "hello", versions: [VERSION], client: this.client, capabilities: { acks: true, duck: true } };
    if (this.input) hello.input = { encoding: "pcm16", rate: this.input, channels: 1 };
    if (this.output) hello.output = { encoding: "pcm16", rate: this.output, channels: 1 };
    if (this.token) hello.token = this.token;
    hello.metadata = this.metadata;
    if (this.session) {
      const { session, _resumeToken: token, _played: played } = this;
      hello.resume = { session, token, last: this._inbox.last, played };
      if (this._events !== null) hello.resume.events = this._events;
    }
    this._control = [JSON.stringify(hello)];
  }

  disconnected(now) {
    this.live = false;
    this._openBy = null;
    this._heartbeat = null;
    this._control = [];
    if (this.session && this._graceUntil === null) this._graceUntil = now + this._graceS;
  }

  mayResume(now) {
    return this.session !== "" && !this.over && (this._graceUntil === null || now < this._graceUntil);
  }

  // -- sending --------------------------------------------------------------------------------------------------------

  /** Queue user audio (Int16Array) captured from `position` on. The oldest is dropped if too much waits. */
  sendAudio(pcm, position) {
    this._queue.push({ pcm, position });
    this._queuedSamples += pcm.length;
    while (this._queuedSamples > KEEP_S * this.input) {
      const [oldest] = this._queue.splice(this._queue.findIndex((item) => item.pcm), 1);
      this._queuedSamples -= oldest.pcm.length;
      this.dropped += oldest.pcm.length;
    }
  }

  /** Queue an input of duologue.events. Returns false if too many wait. */
  sendInput(input) {
    if (this._queuedInputs >= MAX_INPUTS) return false;
    this._queuedInputs++;
    this._queue.push({ input });
    return true;
  }

  /** Everything on the listener's track before `position` was audible at `at`. */
  played(position, at) {
    if (position <= this._played) return;
    this._played = position;
    this._send({ type: "played", e: this.epoch, position, at });
  }

  /** Clear `c` was carried out; `played` is the first position that was not rendered. */
  cleared(c, played, at) {
    const answer = { type: "cleared", c, e: this.epoch, played, at };
    this._answers.set(c, answer);
    this._send(answer);
  }

  refresh(token) {
    this.token = token;
    this._send({ type: "auth.refresh", token });
  }

  /** The driver writes what `nextFrame` still gives and closes with 1000. */
  hangUp() {
    this.over = true;
    this._send({ type: "bye", code: "hangup" });
    this.closeCode = 1000;
  }

  nextFrame(now) {
    if (this._control.length) return this._control.shift();
    if (!this.live || this.closeCode) return null;
    const due = this._inbox.ackDue(now);
    if (due) return JSON.stringify({ type: "ack", e: due[0], n: due[1] });
    if (this._replay.length) return this._replay.shift();
    return this._queue.length ? this._number() : null;
  }

  /** Take the next message from the queue; it gets its number now, as it is transmitted. */
  _number() {
    const [e, n] = this._outbox.next();
    const { input, pcm, position } = this._queue.shift();
    if (input) {
      this._queuedInputs--;
      const text = JSON.stringify({ type: "input", e, n, input });
      this._outbox.push(text);
      return text;
    }
    const samples = this._queue.length > BACKLOG ? this._gather(pcm, position) : pcm;
    this._queuedSamples -= samples.length;
    const frame = encodeUserAudio(e, n, position, samples);
    this._outbox.push(frame, samples.length, position);
    return frame;
  }

  /** `pcm` and what follows it in the queue without a step. */
  _gather(pcm, position) {
    const pieces = [pcm];
    let length = pcm.length;
    for (let next = this._queue[0]; next?.pcm && next.position === position + length; next = this._queue[0]) {
      if (length + next.pcm.length > MERGED_S * this.input) break;
      pieces.push(next.pcm);
      length += next.pcm.length;
      this._queue.shift();
    }
    const whole = new Int16Array(length);
    let at = 0;
    for (const piece of pieces) {
      whole.set(piece, at);
      at += piece.length;
    }
    return whole;
  }

  _send(message) {
    if (this.live) this._control.push(JSON.stringify(message));
  }

  // -- receiving ------------------------------------------------------------------------------------------------------

  /** A message of the server, string or ArrayBuffer. Throws ProtocolError with `closeCode` if the link must end. */
  receive(data, now) {
    if (this.closeCode) return [];
    this._heartbeat?.received(now);
    let ref = "audio";
    try {
      if (typeof data !== "string") return this._audio(data, now);
      const message = parse(data);
      ref = message.type;
      return this._handle(message, now);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      const report = { type: "error", code: error.code, message: error.message, fatal: error.closeCode > 0, ref };
      this._control.push(JSON.stringify(report));
      this.closeCode = error.closeCode;
      if (!error.closeCode) return [{ type: "refused", code: error.code, message: error.message }];
      this.fatal = error.code;
      throw error;
    }
  }

  _handle(message, now) {
    switch (message.type) {
      case "welcome":
        return this._welcome(message, now);
      case "error":
        if (message.fatal) this.fatal = message.code;
        return [message];
      case "bye":
        this.over = true;
        this.closeCode = 1000;
        return [message];
    }
    if (!this.live) throw new ProtocolError("handshake", `A message ${message.type} came before welcome.`, 4000);
    switch (message.type) {
      case "event":
        if (!this._inbox.accept(message.e, message.n, now)) return [];
        if (this._events !== null) this._events++;
        return [message];
      case "gap":
        if (!this._inbox.acceptGap(message.from, message.to, now)) return [];
        if (this._events !== null) this._events = message.events < 0 ? null : this._events + (message.events ?? 0);
        return [message];
      case "ack":
        this._outbox.ack([message.e, message.n]);
        return [];
      case "ping":
        this._send({ type: "pong", t: message.t, r: now });
        return [];
      case "pong":
        return [{ type: "round_trip", seconds: now - message.t }];
      case "response":
        remember(this._responses, message.number, message.response);
        return [];
      case "clear":
        return this._clear(message);
      case "duck":
        if (message.c <= this._duck) return [];
        this._duck = message.c;
        return [message];
      case "going_away":
      case "auth.refreshed":
        return [message];
      default:
        throw new ProtocolError("unknown_message", `Messages of type ${message.type} are unknown here.`);
    }
  }

  _welcome(message, now) {
    const resuming = this.session !== "";
    if (this.live || message.version !== VERSION || message.resumed !== resuming) throw outOfPlace();
    if (resuming && message.session !== this.session) throw outOfPlace();
    if (resuming) {
      this._inbox.announce(message.epoch);
      const { last, recall } = message;
      this._replay = recall == null ? this._outbox.replay(last, this.input) : this._outbox.recall(recall, this.input);
      this._outbox.ack(message.last);
      if (message.epoch > this.epoch) this._outbox.advance(message.epoch);
    } else {
      this.session = message.session;
      this._outbox = new Outbox(message.epoch, Math.max(1, KEEP_S * this.input));
      this._inbox = new Inbox(message.epoch);
    }
    this.epoch = message.epoch;
    this.position = Math.max(this.position, resuming ? 0 : message.position);
    this._resumeToken = message.token;
    this._graceS = message.grace_s;
    this._graceUntil = null;
    this._openBy = null;
    this._heartbeat = new Heartbeat(message.heartbeat_s, message.miss_s, now);
    this.live = true;
    // Said again, as what the lost link carried may not have come, and nothing newer may follow.
    if (resuming && this._played) this._send({ type: "played", e: this.epoch, position: this._played, at: now });
    return [message];
  }

  _clear(message) {
    const { c, before, response } = message;
    if (this._answers.has(c)) {
      const answer = this._answers.get(c);
      if (answer) this._send(answer);
      return [];
    }
    remember(this._answers, c, null);
    if (response) remember(this._floors, response, Math.max(before, this._floors.get(response) ?? 0));
    else this._floor = Math.max(this._floor, before);
    return [message];
  }

  _audio(data, now) {
    if (!this.live) throw new ProtocolError("handshake", "Audio came before welcome.", 4000);
    const frame = decodeAgentAudio(data);
    if (!this._inbox.accept(frame.e, frame.n, now)) return [];
    if (!frame.pcm || !this.output) throw new ProtocolError("audio_format", "Audio came that was not agreed.");
    const response = this._responses.get(frame.number);
    if (response === undefined) throw new ProtocolError("response", `Response ${frame.number} was not declared.`);
    let { pcm, position } = frame;
    this.position = Math.max(this.position, position + pcm.length);
    // What was cleared before it came (by replay, or still on its way) must not be heard.
    const gone = Math.max(this._floor, this._floors.get(response) ?? 0) - position;
    if (gone > 0) {
      pcm = pcm.subarray(gone);
      position += gone;
    }
    if (!pcm.length && !frame.last) return [];
    return [{ type: "audio", pcm, position, response, last: frame.last }];
  }

  // -- time -----------------------------------------------------------------------------------------------------------

  deadline() {
    if (this.closeCode) return Infinity;
    if (!this._heartbeat) return this._openBy ?? Infinity;
    return Math.min(this._heartbeat.deadline(), this._inbox.deadline());
  }

  /** Heartbeat and deadlines. Throws ProtocolError if the link is dead or was never welcomed. */
  tick(now) {
    if (this.closeCode) return;
    const silent = this._heartbeat ? this._heartbeat.tick(now) : this._openBy !== null && now >= this._openBy ? "dead" : "";
    if (silent === "ping") this._send({ type: "ping", t: now });
    if (silent !== "dead") return;
    this.closeCode = 4010;
    throw new ProtocolError("link_dead", "The server has been silent for too long.", 4010);
  }
}

function parse(text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    throw new ProtocolError("malformed", "A text message is not JSON.");
  }
  if (typeof message?.type !== "string") throw new ProtocolError("malformed", "A message has no type.");
  return message;
}

/** Set a key of a map that keeps only its newest entries. */
function remember(map, key, value) {
  map.delete(key);
  map.set(key, value);
  if (map.size > REMEMBERED) map.delete(map.keys().next().value);
}

function outOfPlace() {
  return new ProtocolError("handshake", "A welcome came that does not answer our hello.", 4000);
}
