// Keeps a call on the line: opens WebSockets, carries frames between them and the call, and resumes after a cut.

import { afterClose } from "./errors.js";

const WAITS_S = [0, 0.25, 0.5, 1, 2];
/** Seconds for a new call to be welcomed, and for the first attempt to resume one. */
const OPEN_S = 10;
const RESUME_S = 3;
const FIRST_TRIES_S = 20;
/** More than this in the socket's own queue, and control could no longer overtake audio. */
const SOCKET_BYTES = 32768;
const SOCKET_POLL_MS = 5;

const seconds = () => performance.now() / 1000;

export class Line {
  /**
   * `heard` takes the messages of the server; `changed` takes (state, detail) with state connecting, live, away, over.
   */
  constructor(call, url, { heard, changed }) {
    this.call = call;
    this.url = url;
    this.heard = heard;
    this.changed = changed;
    this.socket = null;
    this.tries = 0;
    this.lostAt = null;
    this.trouble = "";
    this.timer = 0;
    this.poll = 0;
    this.closed = false;
  }

  open() {
    this.openedAt = seconds();
    this.changed("connecting", {});
    this._dial();
  }

  /** Write what is ready. */
  flush() {
    const { socket, call } = this;
    clearTimeout(this.poll);
    if (socket?.readyState === WebSocket.OPEN) {
      while (socket.bufferedAmount < SOCKET_BYTES) {
        const frame = call.nextFrame(seconds());
        if (frame === null) break;
        socket.send(frame);
      }
      if (socket.bufferedAmount >= SOCKET_BYTES) this.poll = setTimeout(() => this.flush(), SOCKET_POLL_MS);
    }
    this._schedule();
  }

  hangUp() {
    this.call.hangUp();
    this.flush();
    this._end("You hung up.");
  }

  /** The network may be back: do not wait for the next try. */
  hurry() {
    if (!this.socket && !this.closed) this._dial();
  }

  /** Leave this link for a new one; nothing is lost by it. */
  move() {
    if (this.socket && this.call.live) this._lost(4012);
  }

  _dial() {
    clearTimeout(this.timer);
    const socket = new WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => {
      this.call.connect(seconds());
      this.flush();
    };
    socket.onmessage = ({ data }) => this._receive(data);
    socket.onclose = ({ code }) => this._lost(code);
    // A WebSocket may hang in its own opening. A resume must not use the grace period up; a slow link gets more each time.
    const patience = this.call.session ? Math.min(OPEN_S, RESUME_S * 2 ** Math.max(0, this.tries - 1)) : OPEN_S;
    this.timer = setTimeout(() => this._lost(4006), 1000 * patience);
  }

  _receive(data) {
    const { call } = this;
    try {
      for (const message of call.receive(data, seconds())) {
        if (message.type === "welcome") this._welcomed();
        if (message.type === "error" && message.fatal) this.trouble = message.message;
        this.heard(message);
        if (message.type === "bye") return this._end(message.message, message.code === "error");
      }
    } catch (error) {
      if (!error.closeCode) throw error;
      this.trouble = error.message;
      this.flush();
      this._lost(error.closeCode);
      return;
    }
    this.flush();
  }

  _welcomed() {
    const away = this.lostAt === null ? 0 : seconds() - this.lostAt;
    const resumed = this.lostAt !== null;
    this.lostAt = null;
    this.tries = 0;
    this.trouble = "";
    this.changed("live", { resumed, away });
  }

  _lost(code) {
    const now = seconds();
    const { socket, call } = this;
    this.socket = null;
    clearTimeout(this.timer);
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close(code >= 4000 ? code : 1000);
    }
    if (this.closed) return;
    const then = afterClose(code, call.fatal);
    call.disconnected(now);
    if (call.over || then === "over") return this._end(this.trouble);
    if (then === "stop") return this._end(this.trouble || reason(code), true);
    if (call.session ? !call.mayResume(now) : now - this.openedAt > FIRST_TRIES_S) {
      return this._end(this.trouble || "The server could not be reached.", true);
    }
    if (this.lostAt === null && call.session) {
      this.lostAt = now;
      this.changed("away", {});
    }
    const wait = WAITS_S[Math.min(this.tries++, WAITS_S.length - 1)] * (1 + Math.random() / 4);
    // Without a session every try is a new call, and a server that is full should not be asked at once.
    this.timer = setTimeout(() => this._dial(), 1000 * (call.session ? wait : Math.max(wait, 0.25)));
  }

  _schedule() {
    if (!this.socket || !this.call.live) return;
    clearTimeout(this.timer);
    const wait = this.call.deadline() - seconds();
    if (wait === Infinity) return;
    this.timer = setTimeout(() => this._tick(), Math.max(0, wait * 1000));
  }

  _tick() {
    try {
      this.call.tick(seconds());
      this.flush();
    } catch (error) {
      if (!error.closeCode) throw error;
      this._lost(error.closeCode);
    }
  }

  _end(detail, failed = false) {
    if (this.closed) return;
    this.closed = true;
    clearTimeout(this.timer);
    clearTimeout(this.poll);
    const { socket } = this;
    this.socket = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close(1000);
    }
    this.changed("over", { detail, failed });
  }
}

function reason(code) {
  if (code === 4009) return "The call went on in another window.";
  if (code === 4003) return "The server wants a key: add #token=… to this page's address.";
  return `The server closed the call (${code}).`;
}
