// Charts: what the page's data say, drawn by Plotly when they come into sight.
const drawn = new Map();
let library = null;

function plotly() {
  library ??= (async () => {
    const packed = document.getElementById("plotly").textContent.trim();
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const source = await new Response(stream).text();
    const script = document.createElement("script");
    script.src = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    await new Promise((done, failed) => {
      script.onload = done;
      script.onerror = () => failed(new Error("the chart library could not be started"));
      document.head.append(script);
    });
    return window.Plotly;
  })();
  return library;
}

const colour = (i) => styled(`--c${i % 8}`);
const faint = (hex, alpha) => {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${r}, ${g}, ${b}, ${alpha})`;
};
const finite = (values) => values.filter((value) => value !== null && Number.isFinite(value));

function rangeOf(values, share) {
  // Rates lie in 0 to 1 and never below; what never moves has an axis that says so.
  const known = finite(values);
  if (!known.length) return undefined;
  const low = Math.min(...known), high = Math.max(...known);
  if (share) return high > 0.5 ? [0, Math.max(1, high) * 1.02] : [0, Math.max(high * 1.2, 0.05)];
  if (low === high) return low > 0 ? [0, 2 * low] : low < 0 ? [2 * low, 0] : [0, 1];
  if (low >= 0 && low < 0.4 * high) return [0, high * 1.08];
  return undefined;
}

function base(more = {}) {
  const axis = {
    gridcolor: styled("--line"), linecolor: styled("--line"), zerolinecolor: styled("--line"), automargin: true,
    tickfont: { size: 11 },
  };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: styled("--text"), size: 12 },
    margin: { l: 44, r: 10, t: 8, b: 34 }, hovermode: "closest", showlegend: false,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 } },
    ...more,
    xaxis: { ...axis, ...more.xaxis }, yaxis: { ...axis, ...more.yaxis },
  };
}

function lines(panel) {
  const traces = [], stacked = panel.stacked ? { stackgroup: "one" } : {};
  for (const band of panel.bands || []) {
    const tone = faint(colour(band.of === "target" ? 7 : panel.lines.findIndex((l) => l.metric === band.of)), 0.18);
    traces.push({ x: band.x, y: band.high, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false });
    traces.push({
      x: band.x, y: band.low, mode: "lines", line: { width: 0 }, fill: "tonexty", fillcolor: tone,
      hoverinfo: "skip", showlegend: false,
    });
    if (band.middle) {
      traces.push({
        x: band.x, y: band.middle, mode: "lines", name: "target", line: { color: colour(7), dash: "dash", width: 1.2 },
      });
    }
  }
  panel.lines.forEach((line, i) => {
    const tone = colour(line.colour ?? i), few = line.x.length <= 25;
    const dash = ["solid", "dash", "dot", "dashdot"][line.dash || 0];
    if (line.trend) {
      traces.push({
        x: line.x, y: line.y, mode: "lines", line: { color: faint(tone, 0.3), width: 1 }, showlegend: false,
        name: `${line.name}, as measured`, hovertemplate: "step %{x}: %{y:.4g}<extra></extra>",
      });
    }
    traces.push({
      x: line.x, y: line.trend || line.y, mode: few ? "lines+markers" : "lines", name: line.name, ...stacked,
      line: { color: tone, width: 2, dash }, marker: { size: 5, color: tone },
      hovertemplate: `step %{x}: %{y:.4g}<extra>${line.trend ? "smoothed" : ""}</extra>`,
    });
  });
  const all = panel.lines.flatMap((line) => line.y).concat((panel.bands || []).flatMap((band) => [...band.low, ...band.high]));
  const marks = panel.marks || [];
  const layout = base({
    xaxis: { title: { text: panel.xtitle || "step", font: { size: 11 } } },
    yaxis: { range: panel.stacked ? undefined : rangeOf(all, panel.share), rangemode: panel.stacked ? "tozero" : "normal" },
    showlegend: panel.lines.length > 1 || (panel.bands || []).some((band) => band.middle),
    shapes: marks.map((mark) => ({
      type: "line", x0: mark.step, x1: mark.step, y0: 0, y1: 1, yref: "paper",
      line: { color: styled("--alarm"), width: 1.4, dash: "dash" },
    })),
    annotations: marks.map((mark) => ({
      x: mark.step, y: 1, yref: "paper", text: mark.alarm.replaceAll("_", " "), showarrow: false, textangle: -90,
      xanchor: "right", yanchor: "top", font: { color: styled("--alarm"), size: 10 },
    })),
  });
  return { traces, layout };
}

function bars(chart) {
  const traces = chart.bars.map((bar) => {
    const known = bar.bounds.some(Boolean);
    return {
      type: "bar", x: chart.labels, y: bar.y, name: bar.name, marker: { color: colour(bar.colour) },
      hovertemplate: `%{x}: %{y:.1%}<extra></extra>`,
      error_y: known ? {
        type: "data", symmetric: false, color: styled("--muted"), thickness: 1.2, width: 3,
        array: bar.y.map((y, k) => (bar.bounds[k] ? bar.bounds[k][1] - y : 0)),
        arrayminus: bar.y.map((y, k) => (bar.bounds[k] ? y - bar.bounds[k][0] : 0)),
      } : undefined,
    };
  });
  return { traces, layout: base({ barmode: "group", showlegend: true, yaxis: { range: [0, 1.03], tickformat: ".0%" } }) };
}

function frontier(chart) {
  const one = chart.scores[chart.selected || 0];
  const saved = one.step.map((step) => step % chart.saved_every === 0 || step === Math.max(...one.step));
  const traces = [{
    x: one.kl, y: one.score, mode: "markers", name: "iterations", text: one.step,
    marker: {
      color: one.step, size: saved.map((is) => (is ? 10 : 5)), showscale: true, colorscale: "Viridis",
      line: { width: saved.map((is) => (is ? 1.5 : 0)), color: styled("--text") },
      colorbar: { title: { text: "iteration", side: "right" }, thickness: 10, tickfont: { size: 10 } },
    },
    hovertemplate: "iteration %{text}: KL %{x:.3g}, %{y:.4g}<extra></extra>",
  }];
  return {
    traces,
    layout: base({ xaxis: { title: { text: "KL to the reference (nats)" } }, yaxis: { title: { text: one.title } } }),
  };
}

function histogram(chart) {
  const at = chart.steps[chart.selected ?? chart.steps.length - 1], start = chart.steps[0];
  const part = (counted, name, i, axis, strong) => {
    if (!counted) return null;
    const width = (counted.high - counted.low) / counted.counts.length;
    return {
      type: "bar", name, x: counted.counts.map((_, k) => counted.low + (k + 0.5) * width), y: counted.counts, width,
      marker: { color: strong ? colour(i) : faint(colour(7), 0.4) }, xaxis: `x${axis}`, yaxis: `y${axis}`,
      hovertemplate: "%{x:.3g}: %{y} answers<extra></extra>",
    };
  };
  const traces = [
    part(start.raw, `raw, iteration ${start.step}`, 0, "", false), part(at.raw, `raw, iteration ${at.step}`, 0, "", true),
    part(start.scaled, `scaled, iteration ${start.step}`, 1, "2", false),
    part(at.scaled, `scaled, iteration ${at.step}`, 1, "2", true),
  ].filter(Boolean);
  const axis = { gridcolor: styled("--line"), zerolinecolor: styled("--line"), automargin: true };
  return {
    traces,
    layout: base({
      barmode: "overlay", showlegend: true, grid: { rows: 1, columns: 2, pattern: "independent" },
      xaxis: { title: { text: "raw score" } }, xaxis2: { ...axis, title: { text: "scaled score" } },
      yaxis: { title: { text: "answers" } }, yaxis2: axis,
    }),
  };
}

function calibration(chart) {
  const most = Math.max(...chart.count, 1);
  const traces = [
    { x: [0.5, 1], y: [0.5, 1], mode: "lines", name: "as sure as right", line: { color: colour(7), dash: "dash" } },
    {
      x: chart.confidence, y: chart.accuracy, text: chart.count, mode: "markers+lines", name: "pairs",
      marker: { size: chart.count.map((n) => 6 + 18 * Math.sqrt(n / most)), color: colour(0) }, line: { color: colour(0) },
      hovertemplate: "sure %{x:.2f}, right %{y:.2f} of %{text} pairs<extra></extra>",
    },
  ];
  return {
    traces,
    layout: base({
      showlegend: true, xaxis: { title: { text: "its probability of the better answer" }, range: [0.48, 1.02] },
      yaxis: { title: { text: "how often it is right" }, range: [Math.min(0.45, ...finite(chart.accuracy)) - 0.03, 1.03] },
    }),
  };
}

const kinds = { lines, bars, frontier, histogram, calibration };

function summary(chart) {
  if (chart.kind !== "lines") return `Chart: ${chart.title}`;
  return `Line chart: ${chart.title}. ` + chart.lines.map((line) => {
    const known = finite(line.y);
    return `${line.name}: from ${read(known[0])} to ${read(known[known.length - 1])} over steps ` +
      `${line.x[0]} to ${line.x[line.x.length - 1]}`;
  }).join("; ");
}

function place(chart, parent) {
  const plot = make("div", { class: "plot", role: "img", "aria-label": summary(chart) });
  const caption = make("figcaption", {}, make("span", {}, chart.title));
  const figure = make("figure", { class: chart.wide ? "wide" : "" }, caption, plot);
  if (chart.choices) {
    const choose = make("select", { "aria-label": `${chart.title}: which` });
    chart.choices.forEach((text, i) => choose.append(make("option", { value: i, selected: i === chart.selected }, text)));
    choose.addEventListener("change", () => {
      chart.selected = Number(choose.value);
      draw(plot);
    });
    caption.append(choose);
  }
  drawn.set(plot, { chart, done: false });
  parent.append(figure);
  seen.observe(plot);
}

async function draw(plot) {
  const Plotly = await plotly(), held = drawn.get(plot);
  const { traces, layout } = kinds[held.chart.kind](held.chart);
  held.done = true;
  await Plotly.react(plot, traces, layout, { displayModeBar: false, responsive: true });
}

const failed = (error) => console.error(error);
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting && !drawn.get(entry.target).done) draw(entry.target).catch(failed);
  }
}, { rootMargin: "300px" });

onTheme.push(() => {
  for (const [plot, held] of drawn) if (held.done) draw(plot).catch(failed);
});

// Paper is white, and shows all charts: the library is there by then.
addEventListener("load", () => { if (drawn.size) plotly().catch(failed); });
addEventListener("beforeprint", () => {
  document.querySelectorAll("details.stage").forEach((stage) => { stage.open = true; });
  root.dataset.theme = "light";
  for (const plot of drawn.keys()) draw(plot).catch(failed);
});
addEventListener("afterprint", applyTheme);

function panelsInto(panels, parent, first = []) {
  // A grid for each group of panels under its heading; `first` are charts that stand before the panels of the first.
  let group = null, grid = null, before = first;
  for (const panel of panels.length ? panels : [{ group: "" }]) {
    if (panel.group !== group) {
      group = panel.group;
      grid = make("div", { class: "charts" });
      parent.append(...(group ? [make("h3", {}, group), grid] : [grid]));
      before.forEach((chart) => place(chart, grid));
      before = [];
    }
    if (panel.lines) place({ kind: "lines", ...panel }, grid);
  }
}
