// Draws the entries of a conversation. Text goes in as text only, so nothing that an agent says can become markup.

import { split, waterfall } from "./conversation.js";

const POINTS = {
  stt_final: "recognised",
  committed: "turn taken",
  llm_first_token: "first token",
  tts_first_audio: "first audio",
  first_sample: "sent",
};
const ORIGINS = { idle: "asking again", filler: "meanwhile", farewell: "goodbye" };
const TOOL_STATUS = {
  running: "running",
  waiting: "needs your approval",
  ok: "done",
  error: "failed",
  timeout: "took too long",
  cancelled: "cancelled",
  denied: "not approved",
  outcome_unknown: "outcome unknown",
  ended: "open when the call ended",
};
const NEAR_END_PX = 80;

export function element(tag, className = "", ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null && child !== ""));
  return node;
}

export const readable = (ms) => (ms >= 995 ? `${(ms / 1000).toFixed(2)} s` : `${Math.round(ms)} ms`);

export class View {
  /** `approve(call, approved)` is called by the buttons of a tool that waits. */
  constructor(list, scroller, { approve }) {
    this.list = list;
    this.scroller = scroller;
    this.approve = approve;
    this.nodes = new Map();
    this.open = new Set(); // waterfalls and results that the user unfolded
  }

  clear() {
    this.list.replaceChildren();
    this.nodes.clear();
    this.open.clear();
  }

  draw(entry) {
    const { scroller } = this;
    const atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END_PX;
    let node = this.nodes.get(entry.id);
    if (!node) {
      node = element("li");
      this.nodes.set(entry.id, node);
      this.list.append(node);
    }
    // A focused button must not vanish under the finger because its entry was drawn anew.
    const focused = node.contains(document.activeElement) ? document.activeElement.dataset.part : "";
    node.className = `entry ${entry.kind}`;
    node.replaceChildren(...this[entry.kind](entry, node));
    if (focused) node.querySelector(`[data-part="${focused}"]`)?.focus();
    if (atEnd) scroller.scrollTop = scroller.scrollHeight;
  }

  remove(entry) {
    this.nodes.get(entry.id)?.remove();
    this.nodes.delete(entry.id);
  }

  user(entry, node) {
    node.classList.toggle("partial", !entry.final);
    node.classList.toggle("discarded", entry.discarded !== "");
    const label = entry.discarded ? element("span", "tag", "not taken as a turn") : "";
    return [who("You"), element("p", "words", entry.text), label].filter(Boolean);
  }

  agent(entry, node) {
    const [heard, rest] = split(entry.text, entry.heard);
    const cut = rest !== "" && ["interrupted", "cancelled", "failed", "ended"].includes(entry.status);
    node.classList.toggle("speaking", entry.status === "");
    const words = element("p", "words", element("span", "heard", heard));
    if (rest) {
      const hint = cut ? element("span", "visually-hidden", " (not heard:) ") : "";
      words.append(...[hint, element(cut ? "s" : "span", cut ? "cut" : "unheard", rest)].filter(Boolean));
    }
    const tags = element("div", "tags");
    if (ORIGINS[entry.origin]) tags.append(element("span", "tag", ORIGINS[entry.origin]));
    if (entry.status === "interrupted") tags.append(element("span", "tag cut-tag", "interrupted"));
    else if (entry.status === "failed") tags.append(element("span", "tag cut-tag", "failed"));
    else if (!entry.status && entry.stage === "pause") tags.append(element("span", "tag", "paused"));
    if (entry.record) tags.append(this.latency(entry));
    return [who("Agent"), words, ...(tags.childNodes.length ? [tags] : [])];
  }

  latency({ id, record }) {
    const steps = waterfall(record.points_ms ?? {});
    const total = record.voice_to_voice_ms ?? steps.at(-1)?.at ?? 0;
    const bar = element("span", "bar");
    const table = element("dl", "steps");
    for (const { name, ms, at } of steps) {
      const label = POINTS[name] ?? name.replaceAll("_", " ");
      const part = element("span", `part ${name}`);
      part.style.flexGrow = Math.max(ms, 0.001);
      bar.append(part);
      const key = element("span", `key ${name}`);
      const aside = at < 0 ? "before you ended" : ms > 0 ? `+${readable(ms)}` : "at once";
      table.append(element("dt", "", key, label), element("dd", "", at > 0 ? readable(at) : "0 ms"), element("dd", "more", aside));
    }
    bar.setAttribute("aria-hidden", "true");
    const summary = element("summary", "", element("span", "visually-hidden", "Answered after "), readable(Math.max(0, total)), bar);
    summary.title = "From the end of your speech to the first sound sent";
    if (record.barge_in_onset_ms !== undefined) {
      table.append(element("dt", "", "silent after your barge-in"), element("dd", "", readable(record.barge_in_onset_ms)));
    }
    return this.fold(`latency:${id}`, "latency", summary, table);
  }

  tool(entry) {
    const given = Object.entries(entry.arguments).map(([key, value]) => `${key}: ${brief(value)}`);
    const status = element("span", `status ${entry.status}`, TOOL_STATUS[entry.status] ?? entry.status);
    const head = element("p", "head", element("span", "name", entry.name), element("span", "given", given.join(", ")), status);
    const parts = [head];
    if (entry.progress && entry.status === "running") parts.push(element("p", "progress", entry.progress));
    if (entry.approval) parts.push(this.question(entry));
    if (entry.error) parts.push(element("p", "failure", entry.error));
    if (entry.status === "ok" && entry.output !== undefined && entry.output !== null) {
      const seconds = element("span", "given", readable(entry.seconds * 1000));
      const text = typeof entry.output === "string" ? entry.output : JSON.stringify(entry.output, null, 2);
      parts.push(this.fold(entry.id, "result", element("summary", "", "Result ", seconds), element("pre", "", text)));
    }
    return parts;
  }

  question({ call, name }) {
    const button = (label, approved, className) => {
      const node = element("button", className, label);
      node.type = "button";
      node.dataset.part = `approve:${approved}`;
      node.setAttribute("aria-label", `${label} ${name}`);
      node.onclick = () => this.approve(call, approved);
      return node;
    };
    return element("div", "question", button("Approve", true, "yes"), button("Deny", false, "no"));
  }

  note(entry, node) {
    node.classList.add(entry.tone);
    return [element("p", "", entry.text)];
  }

  /** A `details` that stays as the user left it when its entry is drawn anew. */
  fold(key, className, summary, content) {
    const node = element("details", className, summary, content);
    summary.dataset.part = key;
    node.open = this.open.has(key);
    node.ontoggle = () => (node.open ? this.open.add(key) : this.open.delete(key));
    return node;
  }
}

function who(name) {
  return element("span", "visually-hidden", `${name}: `);
}

function brief(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 79)}…` : text;
}
