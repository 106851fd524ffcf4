// Binary audio frames of protocol v1 (docs/protocol.md, section 4).

import { ProtocolError } from "./errors.js";

const USER_AUDIO = 0x11;
const AGENT_AUDIO = 0x12;
const USER_HEADER = 24;
const AGENT_HEADER = 32;
const LAST = 0x01;

/** User audio `pcm` (Int16Array), captured from sample `position` on, as position (epoch, n). */
export function encodeUserAudio(epoch, n, position, pcm) {
  const frame = new ArrayBuffer(USER_HEADER + pcm.byteLength);
  const view = new DataView(frame);
  view.setUint8(0, USER_AUDIO);
  view.setUint16(2, USER_HEADER, true);
  view.setUint32(4, epoch, true);
  view.setBigUint64(8, BigInt(n), true);
  view.setBigUint64(16, BigInt(position), true);
  // PCM16 on the wire is little-endian, and so is every machine that runs a browser.
  new Int16Array(frame, USER_HEADER).set(pcm);
  return frame;
}

/** An agent's frame (ArrayBuffer). `pcm` is a view on it, or null if the payload is no whole number of samples. */
export function decodeAgentAudio(frame) {
  const view = new DataView(frame);
  const kind = frame.byteLength ? view.getUint8(0) : 0;
  if (kind !== AGENT_AUDIO) throw new ProtocolError("unknown_frame", `A binary message of kind ${kind} came.`);
  const header = frame.byteLength >= AGENT_HEADER ? view.getUint16(2, true) : 0;
  if (header < AGENT_HEADER || header % 8 || header > frame.byteLength) {
    throw new ProtocolError("malformed", `An audio frame of ${frame.byteLength} bytes says its header has ${header}.`);
  }
  return {
    last: (view.getUint8(1) & LAST) !== 0,
    e: view.getUint32(4, true),
    n: Number(view.getBigUint64(8, true)),
    position: Number(view.getBigUint64(16, true)),
    number: view.getUint32(24, true),
    offset: view.getUint32(28, true),
    pcm: (frame.byteLength - header) % 2 ? null : new Int16Array(frame, header),
  };
}
