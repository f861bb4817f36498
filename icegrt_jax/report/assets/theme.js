// The theme: as the system has it until the switch says otherwise; what was chosen is remembered where that is allowed.
const themes = ["system", "light", "dark"];
const root = document.documentElement;
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const onTheme = [];

function remembered() {
  try {
    return localStorage.getItem("icegrt-theme") || "system";
  } catch {
    return "system";
  }
}

function remember(theme) {
  try {
    localStorage.setItem("icegrt-theme", theme);
  } catch {
    // Pages from disk may have no storage: the choice then lasts as long as the page.
  }
}

let theme = themes.includes(remembered()) ? remembered() : "system";

function applyTheme() {
  const dark = theme === "dark" || (theme === "system" && prefersDark.matches);
  root.dataset.theme = dark ? "dark" : "light";
  const button = document.getElementById("theme");
  if (button) button.textContent = `Theme: ${theme}`;
  onTheme.forEach((redraw) => redraw());
}

applyTheme();
prefersDark.addEventListener("change", applyTheme);

function startTheme() {
  applyTheme();
  document.getElementById("theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    remember(theme);
    applyTheme();
  });
}

// Small helpers. Texts of models and data only ever become text nodes.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function read(number) {
  if (number === null || number === undefined) return "–";
  if (Number.isInteger(number)) return String(number);
  return Math.abs(number) >= 100 ? number.toFixed(0) : String(Number(number.toPrecision(3)));
}

function styled(name) {
  return getComputedStyle(root).getPropertyValue(name).trim();
}
