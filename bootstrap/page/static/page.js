// Keeps the list fresh: the event stream says that something changed, the list is fetched again.
// Without this script the page reloads itself every five seconds.
"use strict";
const cards = document.getElementById("cards");
const lost = document.getElementById("lost");
const asOf = document.getElementById("as-of");
let heard = new Date();

function showLost(isLost) {
  lost.hidden = !isLost;
  cards.classList.toggle("stale", isLost);
  asOf.textContent = heard.toLocaleTimeString();
}

async function refresh() {
  try {
    const answer = await fetch("/cards", { cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    cards.innerHTML = await answer.text();
    heard = new Date();
    showLost(false);
  } catch {
    showLost(true);
  }
}

asOf.textContent = heard.toLocaleTimeString();
const stream = new EventSource("/events");
stream.addEventListener("change", refresh);
stream.addEventListener("lost", () => showLost(true));
stream.addEventListener("error", () => showLost(true));
setInterval(refresh, 5000); // ages grow and quiet stages turn amber without an event
