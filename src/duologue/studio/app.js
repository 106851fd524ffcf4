// The talk page: buttons and words. Audio and protocol live in the worker and the worklets.

import { openAudio } from "./audio.js";
import { Conversation } from "./conversation.js";
import { readable, View } from "./view.js";

const INPUT_RATE = 16000;
const OUTPUT_RATE = 24000;
const CLOCK_MS = 200;

const $ = (id) => document.getElementById(id);
const body = document.body;
const talk = $("talk");

let worker = null;
let audio = null;
let clock = 0;
let muted = false;
let attempt = 0; // counts calls, so that one that was given up does not begin after all

const view = new View($("log"), $("scroller"), { approve: (call, approved) => send({ type: "input.approval", call, approved }) });
let conversation = newConversation();

function newConversation() {
  return new Conversation({ changed: (entry) => view.draw(entry), removed: (entry) => view.remove(entry) });
}

function setState(state, line) {
  body.dataset.state = state;
  $("line-text").textContent = line;
  const inCall = state !== "idle";
  talk.setAttribute("aria-label", inCall ? "Hang up" : "Talk");
  $("mute").disabled = !inCall || !audio?.capturePort;
  caption();
}

function caption() {
  const state = body.dataset.state;
  const stoppable = state === "live" && conversation.agentSpeaks !== "";
  $("stop").disabled = !stoppable;
  body.classList.toggle("user-speaks", conversation.userSpeaks);
  body.classList.toggle("agent-speaks", stoppable);
  $("caption").textContent = words(state);
}

function words(state) {
  if (state === "idle") return conversation.entries.size ? "Press the button to talk again." : "Press the button and talk.";
  if (state === "starting") return "Calling…";
  if (state === "away") return "The network is gone. Your words are kept and sent when it is back.";
  if (audio?.context.state === "suspended") return "The sound is held back. Tap anywhere to go on.";
  if (conversation.userSpeaks) return "Listening";
  if (conversation.agentSpeaks) return muted ? "Speaking; you are muted" : "Speaking: just talk to interrupt";
  if (conversation.toolsRunning.size) return "Working on it; go on talking";
  if (muted) return "You are muted";
  return audio?.capturePort ? "Go ahead" : "Type what you want to say";
}

function announce(text, urgent = false) {
  $(urgent ? "alarm" : "announcer").textContent = text;
}

function note(text, tone) {
  conversation.note(text, tone);
  announce(text, tone === "error");
}

function showNotice(text) {
  if (!text || $("notice").textContent === text) return;
  $("notice").textContent = text;
  $("notice").hidden = false;
}

async function start({ withMicrophone }) {
  view.clear();
  conversation = newConversation();
  setState("starting", "Calling");
  const mine = ++attempt;
  let opened = null;
  try {
    const report = (text) => note(text, "warn");
    opened = await openAudio({ input: INPUT_RATE, output: OUTPUT_RATE, withMicrophone, report });
  } catch (error) {
    note(`The sound could not be opened: ${error.message}`, "error");
  }
  if (mine !== attempt) return opened?.close();
  audio = opened;
  if (audio) audio.context.onstatechange = caption;
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => told[data.type]?.(data);
  worker.onerror = (event) => over({ detail: `The page failed: ${event.message}.`, failed: true });
  const { capturePort = null, playbackPort = null } = audio ?? {};
  const url = new URL("ws", document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  worker.postMessage(
    {
      type: "start",
      url: url.href,
      input: capturePort ? INPUT_RATE : 0,
      output: playbackPort ? OUTPUT_RATE : 0,
      contextRate: audio?.context.sampleRate ?? 0,
      token: keyInAddress(),
      metadata: { language: navigator.language },
      client: { name: "duologue-studio", version: "1" },
      capturePort,
      playbackPort,
    },
    [capturePort, playbackPort].filter(Boolean),
  );
  if (audio) clock = setInterval(tellClock, CLOCK_MS);
}

/** A key travels in the fragment, which browsers keep to themselves: http://localhost:8080/#token=… */
function keyInAddress() {
  return new URLSearchParams(location.hash.slice(1)).get("token") ?? "";
}

function tellClock() {
  worker?.postMessage({ type: "clock", ...audio.clock() });
}

function send(input) {
  worker?.postMessage({ type: "input", input });
}

function release() {
  clearInterval(clock);
  worker?.terminate();
  audio?.close();
  worker = audio = null;
  setMuted(false);
}

function over({ detail, failed = false }) {
  if (body.dataset.state === "idle") return;
  attempt++;
  release();
  conversation.end();
  note(detail || "The call is over.", failed ? "error" : "info");
  body.style.setProperty("--user", 0);
  body.style.setProperty("--agent", 0);
  setState("idle", "Call ended");
}

const told = {
  state({ state, resumed, away, detail, failed }) {
    if (state === "live") {
      setState("live", "In a call");
      if (resumed) note(`The link was cut; back after ${readable(1000 * away)}.`, "info");
      else announce("In a call.");
    } else if (state === "away") {
      setState("away", "Reconnecting");
      announce("Reconnecting.");
    } else if (state === "over") over({ detail, failed });
  },
  welcome({ notice }) {
    showNotice(notice);
    if (audio) tellClock();
  },
  event({ event }) {
    if (event.type === "session.started") {
      if (event.agent) $("agent").textContent = event.agent;
      showNotice(event.notice);
    }
    conversation.apply(event);
    if (event.type === "tool.approval_needed") announce(`${event.name} needs your approval.`, true);
    if (event.type === "tool.finished") announce(`${event.name}: ${event.status}.`);
    if (event.type === "error") announce(event.message, true);
    // Without sound the answer is only to be read, so it is read out.
    if (event.type === "response.finished" && !audio) announce(event.text ?? "");
    caption();
  },
  gap({ why, ms, events, samples }) {
    if (why === "cleared") return;
    const lost = ms < 0 ? "Something was lost" : `${ms} ms of sound and ${events} messages were lost`;
    if (samples || events) note(`${lost} on the way.`, "warn");
  },
  going_away({ reason }) {
    note(`The server will move this call shortly${reason ? ` (${reason})` : ""}.`, "info");
  },
  error({ message, fatal }) {
    if (!fatal) note(message, "warn"); // a fatal one ends the call, which is told then
  },
  round_trip({ seconds }) {
    $("line").title = `Round trip ${readable(1000 * seconds)}`;
  },
  dropped({ samples }) {
    console.warn(`${samples} samples could not be queued for playing`);
  },
  refused({ code, message }) {
    console.warn(`The server sent what cannot be taken: ${code}: ${message}`);
  },
  levels({ user, agent }) {
    body.style.setProperty("--user", loudness(user));
    body.style.setProperty("--agent", loudness(agent));
  },
};

/** 0 to 1 for the eye: -50 to -10 dBFS. */
function loudness(level) {
  return Math.max(0, Math.min(1, 1.25 + Math.log10(Math.max(level, 1e-6)) / 2)).toFixed(3);
}

function setMuted(on) {
  muted = on;
  $("mute").setAttribute("aria-pressed", String(on));
  $("mute").querySelector("span").textContent = on ? "Muted" : "Mute";
}

function toggleMute() {
  if ($("mute").disabled) return;
  setMuted(!muted);
  worker?.postMessage({ type: "mute", muted });
  send({ type: "input.activity", kind: muted ? "mute" : "unmute" });
  caption();
}

function interrupt() {
  if (!$("stop").disabled) send({ type: "input.interrupt" });
}

function hangUp() {
  if (worker) worker.postMessage({ type: "hang_up" });
  else over({ detail: "You hung up." });
}

talk.onclick = () => (body.dataset.state === "idle" ? start({ withMicrophone: true }) : hangUp());
$("mute").onclick = toggleMute;
$("stop").onclick = interrupt;
$("say").onsubmit = async (submitted) => {
  submitted.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  // Typing before a call begins one, without asking for the microphone.
  if (body.dataset.state === "idle") await start({ withMicrophone: false });
  send({ type: "input.text", text });
};
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") interrupt();
  else if (event.key.toLowerCase() === "m" && event.target !== $("text")) toggleMute();
});
addEventListener("pointerdown", () => audio?.context.resume());
addEventListener("hashchange", () => worker?.postMessage({ type: "token", token: keyInAddress() }));
addEventListener("pagehide", () => worker?.postMessage({ type: "hang_up" }));
