// Keys and dragging for the ranking and the adjudication page. What counts is in the selects of the form; without this
// script they do the same work.
"use strict";

const form = document.getElementById("ranking");
const byId = (id) => document.getElementById(id);
const open = (id) => { const link = byId(id); if (link) link.click(); };

if (form) {
  const selects = [...form.querySelectorAll("select[data-answer]")];
  const slots = [...form.querySelectorAll(".slot")];
  const chips = selects.map(makeChip);
  let tie = false;

  const rankOf = (select) => Number(select.value) || 0;
  const ranked = () => selects.filter(rankOf);
  const say = (text) => { byId("status").textContent = text; };

  // The answers that were ranked, the last one at the end.
  let placed = ranked().sort((a, b) => rankOf(a) - rankOf(b));

  function makeChip(select) {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.className = "chip";
    chip.textContent = select.dataset.answer;
    chip.setAttribute("aria-label", `Answer ${select.dataset.answer}`);
    return chip;
  }

  function show() {
    selects.forEach((select, i) => {
      slots.find((slot) => slot.dataset.rank === select.value).append(chips[i]);
      select.closest(".answer").classList.toggle("ranked", rankOf(select) > 0);
    });
  }

  function set(select, rank) {
    placed = placed.filter((other) => other !== select);
    select.value = rank || "";
    if (rank) placed.push(select);
    show();
    say(rank ? `Answer ${select.dataset.answer}: rank ${rank}` : `Answer ${select.dataset.answer}: not ranked`);
  }

  function next(select) {
    if (!select) return;
    placed = placed.filter((other) => other !== select);
    const last = placed.at(-1);
    const rank = tie && last ? rankOf(last) : placed.length + 1;
    tie = false;
    set(select, Math.min(rank, selects.length));
  }

  function takeBack() {
    if (placed.length) set(placed.at(-1), 0);
  }

  function restEqual() {
    const rank = placed.length + 1;
    selects.filter((select) => !rankOf(select)).forEach((select) => set(select, rank));
  }

  function send(button) {
    if (form.dataset.sent) return;
    form.requestSubmit(button);
  }

  form.addEventListener("submit", (event) => {
    const skips = event.submitter && event.submitter.value === "skip";
    if (form.dataset.sent || (!skips && ranked().length < 2)) {
      event.preventDefault();
      if (!form.dataset.sent) say("Rank two answers or more, or skip.");
      return;
    }
    form.dataset.sent = "yes";
  });
  window.addEventListener("pageshow", () => { delete form.dataset.sent; });
  form.addEventListener("change", (event) => {
    if (event.target.dataset.answer) set(event.target, rankOf(event.target));
  });

  // Dragging, with a mouse or a finger: a chip is dropped into the slot of a rank; a click gives it the next one.
  chips.forEach((chip, i) => {
    let start = null;
    let moved = false;
    chip.addEventListener("pointerdown", (event) => {
      start = event;
      moved = false;
      chip.setPointerCapture(event.pointerId);
    });
    chip.addEventListener("pointermove", (event) => {
      if (!start) return;
      const [x, y] = [event.clientX - start.clientX, event.clientY - start.clientY];
      moved = moved || Math.hypot(x, y) > 6;
      if (moved) chip.style.transform = `translate(${x}px, ${y}px)`;
    });
    const drop = (event) => {
      if (!start) return;
      start = null;
      chip.style.transform = "";
      if (!moved || event.type === "pointercancel") return;
      chip.hidden = true;
      const under = document.elementFromPoint(event.clientX, event.clientY);
      chip.hidden = false;
      const slot = under && under.closest(".slot");
      if (slot) set(selects[i], Number(slot.dataset.rank));
    };
    chip.addEventListener("pointerup", drop);
    chip.addEventListener("pointercancel", drop);
    chip.addEventListener("click", () => {
      if (moved) { moved = false; return; }
      if (rankOf(selects[i])) set(selects[i], 0); else next(selects[i]);
    });
  });

  function rate() {
    form.querySelectorAll("details.ratings").forEach((one) => { one.open = true; });
    const first = form.querySelector("select.rating");
    if (first) first.focus();
  }

  // In a field for a rating a digit goes on to the next field.
  form.addEventListener("keydown", (event) => {
    if (!event.target.matches("select.rating") || !/^[1-9]$/.test(event.key)) return;
    if (![...event.target.options].some((option) => option.value === event.key)) return;
    event.preventDefault();
    event.target.value = event.key;
    const all = [...form.querySelectorAll("select.rating")];
    (all[all.indexOf(event.target) + 1] || form.querySelector(".main-button")).focus();
  });

  const actions = {
    t: () => { tie = placed.length > 0; say(tie ? "The next one is as good as the last." : ""); },
    e: restEqual,
    Backspace: takeBack,
    s: () => byId("skip") && send(byId("skip")),
    r: rate,
    n: () => byId("note").focus(),
    Enter: () => send(form.querySelector(".main-button")),
  };

  document.addEventListener("keydown", (event) => {
    const field = event.target.closest("select, textarea, input");
    if (event.key === "Escape" && field) { field.blur(); return; }
    if (event.key === "Enter" && event.ctrlKey) { event.preventDefault(); actions.Enter(); return; }
    if (field || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" && event.target.closest("a, button, summary")) return;
    if (/^[1-9]$/.test(event.key)) { next(selects[Number(event.key) - 1]); return; }
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  });
  show();
}

document.addEventListener("keydown", (event) => {
  if (event.target.closest("select, textarea, input") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "u") open("undo");
  for (const [key, id] of [["g", "guideline"], ["?", "keys"]]) {
    const part = byId(id);
    if (event.key === key && part) { part.open = !part.open; part.scrollIntoView({ block: "nearest" }); }
  }
});

// On a phone the guideline would push the answers out of sight.
if (window.matchMedia("(max-width: 60rem)").matches && byId("guideline")) byId("guideline").open = false;
