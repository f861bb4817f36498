// Several runs laid over each other.
const data = JSON.parse(document.getElementById("data").textContent);
startTheme();

for (const stage of data.stages) panelsInto(stage.panels, document.getElementById(`charts-${stage.name}`));
const evaluated = document.getElementById("charts-evaluation");
if (evaluated) panelsInto([], evaluated, data.bars.map((chart) => ({ kind: "bars", wide: chart.labels.length > 4, ...chart })));
