// Exactly-once delivery over links that break (docs/protocol.md, sections 3, 6 and 8). No I/O, no clock: times are handed in.

import { ProtocolError } from "./errors.js";

/** Order of two positions [epoch, n]: below, at or above 0. */
export function compare(a, b) {
  return a[0] - b[0] || a[1] - b[1];
}

/** What was transmitted and is not acknowledged, in order: messages, and gaps where memory was full. */
export class Outbox {
  constructor(epoch, maxSamples, maxBytes = 1 << 20) {
    this.sent = [epoch, 0];
    this.acked = [epoch, 0];
    this.parts = [];
    this.maxSamples = maxSamples;
    this.maxBytes = maxBytes;
    this.samples = 0;
    this.bytes = 0;
    this.past = []; // acknowledged, as much as there may be of what is not: an owner that takes over has nothing of it
    this.pastSamples = 0;
  }

  /** The position that the next pushed message has; it is part of the message. */
  next() {
    return [this.sent[0], this.sent[1] + 1];
  }

  push(data, samples = 0, position = 0) {
    this.sent = this.next();
    this.parts.push({ from: this.sent, to: this.sent, data, samples, position, events: samples ? 0 : 1 });
    if (samples) this.samples += samples;
    else this.bytes += data.length;
    while (this.samples > this.maxSamples) this._lose((part) => part.data && part.samples);
    while (this.bytes > this.maxBytes) this._lose((part) => part.data && !part.samples);
  }

  ack(upto) {
    if (compare(upto, this.sent) > 0) throw new ProtocolError("ack_unsent", `${upto} was acknowledged but never sent.`);
    if (compare(upto, this.acked) <= 0) return;
    this.acked = upto;
    while (this.parts.length && compare(this.parts[0].to, upto) <= 0) {
      const part = this.parts.shift();
      this._forget(part);
      this._remember(part);
    }
    const first = this.parts[0];
    if (first && compare(first.from, upto) <= 0) first.from = [upto[0], upto[1] + 1];
  }

  advance(epoch) {
    this.sent = [epoch, 0];
  }

  /** All that follows `after`, as frames to be written; `rate` is that of the audio. */
  replay(after, rate) {
    if (compare(after, this.sent) > 0) throw new ProtocolError("resume", "The server has what was never sent.", 4004);
    const frames = [];
    if (compare(after, this.acked) < 0) {
      const past = this.past.filter((part) => compare(part.to, after) > 0);
      const known = past.length ? [past[0].from[0], past[0].from[1] - 1] : this.acked;
      if (compare(known, after) > 0) {
        // Forgotten at an acknowledgement of an owner before this one: nobody can say any more what it was.
        const part = { to: known, events: -1, samples: -1, position: 0 };
        frames.push(gapMessage(part, [after[0], after[1] + 1], -1, "unknown"));
      }
      frames.push(...past.map((part) => part.data ?? takenMessage(part.from, part.to)));
    }
    for (const part of this.parts) {
      if (compare(part.to, after) <= 0) continue;
      const from = compare(part.from, after) > 0 ? part.from : [after[0], after[1] + 1];
      frames.push(part.data ?? gapMessage(part, from, rate ? Math.floor((part.samples * 1000) / rate) : 0, "overflow"));
    }
    return frames;
  }

  /** For an owner that has nothing of it: what is not acknowledged, and audio from `track` on that is kept, as frames. */
  recall(track, rate) {
    const begin = this.past.findIndex((part) => part.data && part.samples && part.position + part.samples > track);
    const past = begin < 0 ? [] : this.past.slice(begin);
    const first = [...past, ...this.parts][0]?.from ?? this.next();
    return [
      ...(compare(first, [1, 1]) > 0 ? [takenMessage([1, 1], [first[0], first[1] - 1])] : []),
      ...past.map((part) => part.data ?? takenMessage(part.from, part.to)),
      ...this.replay(this.acked, rate),
    ];
  }

  _remember(part) {
    this.past.push(part);
    this.pastSamples += part.samples;
    while (this.past.length && (this.pastSamples > this.maxSamples || !this.past[0].samples)) {
      this.pastSamples -= this.past.shift().samples;
    }
  }

  _lose(which) {
    let index = this.parts.findIndex(which);
    this._forget(this.parts[index]);
    this.parts[index].data = null;
    if (this.parts[index - 1]?.data === null) this._merge(--index);
    if (this.parts[index + 1]?.data === null) this._merge(index);
  }

  _merge(index) {
    const [left, right] = this.parts.splice(index, 2);
    this.parts.splice(index, 0, {
      from: left.from,
      to: right.to,
      data: null,
      samples: left.samples + right.samples,
      position: left.samples ? left.position : right.position,
      events: left.events + right.events,
    });
  }

  _forget(part) {
    if (!part.data) return;
    if (part.samples) this.samples -= part.samples;
    else this.bytes -= part.data.length;
  }
}

/** Of what an earlier owner has had. */
function takenMessage(from, to) {
  return gapMessage({ to, events: 0, samples: 0, position: 0 }, from, 0, "taken");
}

function gapMessage({ to, events, samples, position }, from, ms, why) {
  return JSON.stringify({ type: "gap", from, to, events, samples, ms, position, why });
}

const ACK_EVERY = 32;
const ACK_AFTER_S = 0.25;

/** What was received: each position once, in order; and when to acknowledge. */
export class Inbox {
  constructor(epoch) {
    this.last = [epoch, 0];
    this.epoch = epoch;
    this.unacked = 0;
    this.since = 0;
    this.duplicates = 0;
  }

  announce(epoch) {
    if (epoch < this.epoch) throw new ProtocolError("epoch", `Epoch ${epoch} came after ${this.epoch}.`, 4012);
    this.epoch = epoch;
  }

  /** Whether (e, n) is new. */
  accept(e, n, now) {
    return this._take([e, n], [e, n], now);
  }

  /** Whether a gap says anything new. */
  acceptGap(from, to, now) {
    return this._take(from, to, now);
  }

  ackDue(now) {
    if (!this.unacked || (this.unacked < ACK_EVERY && now < this.since + ACK_AFTER_S)) return null;
    this.unacked = 0;
    return this.last;
  }

  deadline() {
    if (!this.unacked) return Infinity;
    return this.unacked >= ACK_EVERY ? this.since : this.since + ACK_AFTER_S;
  }

  _take(from, to, now) {
    const [epoch, n] = this.last;
    if (compare(to, this.last) <= 0) {
      this.duplicates++;
      return false;
    }
    const next = from[0] === epoch && from[1] <= n + 1;
    const first = from[0] > epoch && from[0] <= this.epoch && from[1] === 1;
    if (!(next || first) || to[0] > this.epoch || compare(from, to) > 0) {
      throw new ProtocolError("sequence", `Position ${from} came after ${this.last}.`, 4000);
    }
    this.last = to;
    if (!this.unacked++) this.since = now;
    return true;
  }
}

/** Pings, and finds a link dead on which nothing arrives. */
export class Heartbeat {
  constructor(everyS, missS, now) {
    this.everyS = everyS;
    this.missS = missS;
    this.pingAt = now;
    this.deadAt = now + missS;
  }

  received(now) {
    this.deadAt = now + this.missS;
  }

  deadline() {
    return Math.min(this.pingAt, this.deadAt);
  }

  /** "", "ping" or "dead". */
  tick(now) {
    const late = now - this.deadline();
    if (late < 0) return "";
    // A page that was stopped itself must not blame the link for what waits in its socket.
    if (late > this.everyS) this.deadAt = Math.max(this.deadAt, now + this.everyS);
    else if (now >= this.deadAt) return "dead";
    if (now < this.pingAt) return "";
    this.pingAt = now + this.everyS;
    return "ping";
  }
}
