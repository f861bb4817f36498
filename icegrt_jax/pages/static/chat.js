// Enter sends; while the models answer the button says so.
"use strict";

const form = document.getElementById("say");
const text = document.getElementById("text");
const send = document.getElementById("send");

text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
form.addEventListener("submit", () => {
  send.disabled = true;
  document.getElementById("status").textContent = "The models are answering …";
});
window.addEventListener("pageshow", () => { send.disabled = false; });
