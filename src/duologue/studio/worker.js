// The worker: socket, acknowledgements and resume. Audio passes between the worklets' ports and the socket here, so that a
// busy page never delays it; the page sends inputs and is told events.

import { Call } from "./connection.js";
import { Line } from "./line.js";
import { Playout } from "./playout.js";

const PLAYOUT_MS = 20;
const LEVELS_MS = 50;

let call, line, playout, capture, playback;
let goingAway = null;
let speaking = false;
const levels = { user: 0, agent: 0, at: 0 };

const seconds = () => performance.now() / 1000;
const tell = (type, fields) => postMessage({ type, ...fields });

function start({ url, input, output, contextRate, token, metadata, client, capturePort, playbackPort }) {
  call = new Call({ input, output, client, token, metadata });
  playout = new Playout(output, contextRate);
  capture = capturePort;
  playback = playbackPort;
  if (capture) capture.onmessage = ({ data }) => captured(data);
  if (playback) {
    playback.onmessage = ({ data }) => rendered(data);
  }
  setInterval(acknowledge, PLAYOUT_MS);
  line = new Line(call, url, { heard, changed: (state, detail) => tell("state", { state, ...detail }) });
  line.open();
}

function captured({ pcm, position, level }) {
  call.sendAudio(pcm, position);
  line.flush();
  show("user", level);
}

function rendered({ type, c, frame, position, playing, level, dropped }) {
  const now = seconds();
  if (type === "cleared") {
    playout.point(frame, position, false, now);
    call.cleared(c, position, playout.leaves(frame, now));
    line.flush();
    return;
  }
  playout.point(frame, position, playing, now);
  show("agent", playing ? level : 0);
  if (dropped) tell("dropped", { samples: dropped });
}

function acknowledge() {
  const now = seconds();
  const position = playout.report(now);
  if (position !== null) {
    call.played(position, now);
    line.flush();
  }
  // A link that will go is left when nobody speaks, or just before it is closed.
  if (goingAway !== null && ((playout.settled && !speaking) || now > goingAway)) {
    goingAway = null;
    line.move();
  }
}

function heard(message) {
  switch (message.type) {
    case "audio":
      playback?.postMessage(message, [message.pcm.buffer]);
      return;
    case "clear":
      if (playback) playback.postMessage(message);
      else call.cleared(message.c, 0, seconds());
      return;
    case "duck":
      playback?.postMessage(message);
      return;
    case "welcome":
      goingAway = null;
      // The server states a gain again after this, unless it is back to normal.
      playback?.postMessage({ type: "duck", gain_db: 0, ramp_ms: 40 });
      tell("welcome", { notice: message.notice, session: message.session, resumed: message.resumed });
      return;
    case "event":
      if (message.event.type === "user.speech_started") speaking = true;
      if (message.event.type === "user.speech_stopped") speaking = false;
      tell("event", { event: message.event });
      return;
    case "going_away":
      goingAway = seconds() + Math.max(0, message.in_s - 1);
      tell("going_away", { in_s: message.in_s, reason: message.reason });
      return;
    default:
      tell(message.type, message);
  }
}

/** Loudness of both sides for the eye, a few times a second. */
function show(side, level) {
  levels[side] = Math.max(levels[side], level);
  const now = performance.now();
  if (now - levels.at < LEVELS_MS) return;
  tell("levels", { user: levels.user, agent: levels.agent });
  levels.user = levels.agent = 0;
  levels.at = now;
}

const orders = {
  start,
  clock: ({ contextTime, at, latencyS }) => playout?.sync({ contextTime, latencyS, at: (at - performance.timeOrigin) / 1000 }),
  input: ({ input }) => {
    if (!call.sendInput(input)) tell("error", { code: "limit_exceeded", message: "Too much waits to be sent already." });
    line.flush();
  },
  mute: ({ muted }) => capture?.postMessage({ muted }),
  token: ({ token }) => {
    call.refresh(token);
    line.flush();
  },
  hang_up: () => line.hangUp(),
};

self.onmessage = ({ data }) => orders[data.type](data);
self.addEventListener("online", () => line?.hurry());
