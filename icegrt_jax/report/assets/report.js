// The report of one run.
const data = JSON.parse(document.getElementById("data").textContent);
startTheme();

for (const stage of data.stages) {
  const parent = document.getElementById(`charts-${stage.name}`);
  if (!parent) continue;
  const first = [];
  if (stage.calibration) first.push({ kind: "calibration", title: "Calibration on held-out pairs", ...stage.calibration });
  if (stage.frontier) {
    const titles = stage.frontier.scores.map((score) => score.title);
    first.push({
      kind: "frontier", title: "Score against KL", selected: 0, choices: titles.length > 1 ? titles : null, ...stage.frontier,
    });
  }
  if (stage.histograms.length) {
    first.push({
      kind: "histogram", title: "Scores of the answers, raw and scaled", wide: true, steps: stage.histograms,
      selected: stage.histograms.length - 1, choices: stage.histograms.map((one) => `iteration ${one.step}`),
    });
  }
  panelsInto(stage.panels, parent, first);
}

const evaluated = document.getElementById("charts-evaluation");
if (evaluated) {
  const charts = data.bars.map((chart) => ({ kind: "bars", wide: chart.labels.length > 4, ...chart }));
  const title = "Gold by temperature, on other prompts", lines = data.temperatures;
  panelsInto(lines.length ? [{ title, group: "", share: true, xtitle: "temperature", lines }] : [], evaluated, charts);
}

const all = document.getElementById("all-columns");
if (all) {
  all.addEventListener("click", () => {
    const on = document.querySelector("table.results").classList.toggle("all");
    all.setAttribute("aria-pressed", String(on));
    all.textContent = on ? "Fewer columns" : "All columns";
  });
}

const browser = document.getElementById("browser");
if (browser) new Browser(data.collections, browser);

const keys = document.getElementById("keys");
if (keys) {
  const rows = [...document.querySelectorAll("table.config tbody tr")];
  const search = keys.querySelector("input"), which = keys.querySelector("select"), count = keys.querySelector("[role=status]");
  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    rows.forEach((row) => {
      row.hidden = !(which.value === "all" || row.dataset.is.split(" ").includes(which.value)) || !row.textContent.toLowerCase().includes(wanted);
    });
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} keys`;
  };
  search.addEventListener("input", filter);
  which.addEventListener("change", filter);
  filter();
}
