// Keeps a live page fresh: a stream says that something changed, then the page's inside is fetched
// and only the parts whose revision changed are replaced. It decides nothing; without it the page
// loads itself again.
"use strict";
const POLL_MS = 5000, LOST_POLL_MS = 2000, STREAM_AGAIN_MS = 60000, FETCH_MS = 8000;
const fresh = document.getElementById("fresh");
const unreachable = document.getElementById("unreachable");
let skew = 0, lost = false, running = false, again = false, asked = Date.now();

// The same words as `age` in bootstrap/cards.py.
function age(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

function tick() {
  if (lost) return;
  const now = Date.now() / 1000 + skew;
  for (const time of fresh.querySelectorAll("time.age")) {
    const text = age(now - Number(time.dataset.at));
    if (time.textContent !== text) time.textContent = text;
  }
}

function say(node, before) {
  const text = node.dataset.said;
  if (!text || (before && before.dataset.said === text)) return;
  document.getElementById(node.dataset.tone === "bad" ? "alarm" : "said").textContent = text;
}

function merge(parts) {
  const had = new Map([...fresh.children].map((node) => [node.id, node]));
  const focused = document.activeElement && document.activeElement.id;
  [...parts].forEach((part, place) => {
    const before = had.get(part.id);
    had.delete(part.id);
    const same = before && before.dataset.rev === part.dataset.rev;
    const node = same ? before : part;
    if (!same) {
      if (before && before.open) part.open = true;
      say(part, before);
      if (before) before.remove();
    }
    if (fresh.children[place] !== node) fresh.insertBefore(node, fresh.children[place] || null);
  });
  for (const gone of had.values()) gone.remove();
  if (focused && document.activeElement.id !== focused) {
    const target = document.getElementById(focused);
    if (target) target.focus({ preventScroll: true });
  }
}

function takeState() {
  const state = document.getElementById("state").dataset;
  skew = Number(state.now) - Date.now() / 1000;
  document.getElementById("as-of").textContent = state.asOf;
  return state.lost === "1";
}

function show(isLost, isUnreachable) {
  lost = isLost || isUnreachable;
  unreachable.hidden = !isUnreachable;
  fresh.classList.toggle("stale", lost);
  tick();
}

async function refresh() {
  if (running) { again = true; return; }
  running = true;
  asked = Date.now();
  try {
    const answer = await fetch(fresh.dataset.source, { cache: "no-store", signal: AbortSignal.timeout(FETCH_MS) });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!page.getElementById("state")) throw new Error(String(answer.status));
    merge(page.body.children);
    show(takeState(), false);
  } catch {
    show(true, true);
  }
  running = false;
  if (again) { again = false; refresh(); }
}

function listen() {
  const stream = new EventSource("/events");
  stream.addEventListener("change", refresh);
  stream.addEventListener("error", () => {
    refresh();
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, STREAM_AGAIN_MS);
  });
}

show(takeState(), false);
listen();
addEventListener("offline", refresh);
addEventListener("online", refresh);
setInterval(tick, 1000);
setInterval(() => { if (Date.now() - asked >= (lost ? LOST_POLL_MS : POLL_MS)) refresh(); }, 1000);
