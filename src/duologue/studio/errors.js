// What breaks the protocol, and what each close code asks of a client (docs/protocol.md, section 9).

export class ProtocolError extends Error {
  /** `closeCode` is set if the link must end. */
  constructor(code, message, closeCode = 0) {
    super(message);
    this.code = code;
    this.closeCode = closeCode;
  }
}

const STOP = new Set([4001, 4002, 4003, 4004, 4009]);

/** "over", "resume" or "stop" after a close with `code`; `error` is the code of the last fatal error message. */
export function afterClose(code, error = "") {
  if (code === 1000) return "over";
  if (STOP.has(code) || (code === 4000 && error !== "sequence")) return "stop";
  return "resume";
}
