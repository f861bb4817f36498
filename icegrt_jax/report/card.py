"""The model card of an export: what the run's folder says about the model, and where it says nothing, that."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from icegrt_jax import files
from icegrt_jax.config.options import EvaluateOptions, ModelOptions, RewardOptions, ValueOptions
from icegrt_jax.data.licences import UNKNOWN, licence_of
from icegrt_jax.domains import load as load_domain
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation.intervals import interval
from icegrt_jax.evaluation.table import AT_BEST, cell, columns_of, difference_cell, differences_of
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.hf import card
from icegrt_jax.models.hf.hub import HUB_NAME
from icegrt_jax.runs.judging import DEFAULTS
from icegrt_jax.training.restore import finished
from icegrt_jax.version import __version__

# A folder of this machine: nobody else has it.
LOCAL = re.compile(r"(?<![\w}.])~?/(?:[^/\s'\"]+/)+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told:
    """What a run says of a model that it has made.

    Attributes:
      stage, role: whose it is.
      what: it is. row: its row in the table of `icegrt evaluate`, "" for none.
      base: the run's base model. reward, value: how the roles began that may begin elsewhere.
      stages: the sections of the stages up to this one, in their order.
      domain: of the run's records. evaluate: how its models were measured.
      config: all of it, to be shown.
    """

    stage: str
    role: str
    what: str
    row: str
    base: ModelOptions
    reward: RewardOptions
    value: ValueOptions
    stages: Mapping[str, Any]
    domain: str
    evaluate: EvaluateOptions
    config: dict[str, Any]


def write(folder: pathlib.Path, workdir: pathlib.Path, told: Told, model: ModelConfig, load: str) -> None:
    """Writes README.md beside an exported model.

    Args:
      folder: of the export.
      workdir: of the run.
      model: the shape.
      load: the section on how it is loaded.
    """
    adapter = (folder / "adapter_config.json").is_file()
    scalar = told.role != "policy"
    title = f"{told.what[0].upper()}{told.what[1:]}"
    about = (
        f"{title}{', as a LoRA adapter' if adapter else ''}. A {model.family} model of "
        f"{model.num_params:,} parameters ({model.num_layers} layers, width {model.d_model}), trained with icegrt_jax "
        f"{__version__}, which follows ICE-GRT (arXiv 2401.02072)."
    )
    base = _base_of(told.base, told.reward, told.value, told.role)
    on_hub = bool(base) and not pathlib.Path(base).expanduser().exists() and bool(HUB_NAME.fullmatch(base))
    sections = [
        ("What it is", about),
        ("Base model", _base(told.base, base)),
        ("Data", _data(told.stages, told.domain, told.evaluate)),
        ("Results", _results(told.evaluate, workdir, told.row) + _held_out(workdir, told.stage)),
        ("How to load", load),
        ("Config", f"```json\n{json.dumps(without_paths(told.config), indent=2)}\n```"),
    ]
    card.write_card(
        folder, title, sections, library_name="peft" if adapter else "transformers",
        tags=[card.TAG, "rlhf"], base_model=base if on_hub else None,
        pipeline_tag="text-classification" if scalar else "text-generation",
    )  # fmt: skip


def _base_of(model: ModelOptions, reward: RewardOptions, value: ValueOptions, role: str) -> str:
    """The folder or name that the role's parameters go back to; "" if they were drawn at random."""
    of_reward = role == "reward" or role == "value" and value.init == "reward" and value.trunk == "own"
    if of_reward and reward.init != "sft":
        return "" if reward.init == "scratch" else reward.init
    return model.path


def _base(model: ModelOptions, base: str) -> str:
    if not base:
        return "None: its parameters were drawn at random and trained in the stages below."
    own = base == model.path and model.adapter
    adapter = f", with the adapter `{without_paths(own)}` merged in" if own else ""
    return f"`{without_paths(base)}`{adapter}. Its licence: {_licence_in(base)}."


def _licence_in(path: str) -> str:
    """What the base's folder says of its licence."""
    from huggingface_hub import ModelCard

    folder = pathlib.Path(path).expanduser()
    if (folder / card.CARD).is_file():
        licence = ModelCard.load(folder / card.CARD, ignore_metadata_errors=True).data.get("license")
        if licence:
            return f"{licence}, by its model card"
    found = sorted(file.name for file in folder.glob("LICENSE*")) if folder.is_dir() else []
    return f"see {found[0]} of that model" if found else f"{UNKNOWN} to this run; see that model's card"


def _data(stages: Mapping[str, Any], domain: str, evaluate: EvaluateOptions) -> str:
    """Every source that this model or one before it was trained or measured on, with its licence where it is known."""
    groups = []
    for name, section in stages.items():
        if getattr(section, "steps", getattr(section, "iterations", 0)):
            groups.append((name, getattr(section, "sources", {})))
        if name == "reward" and section.steps:
            groups.append(("reward, held out", section.heldout))
        if name == "ppo" and section.ptx.coef:
            groups.append(("ppo, replay", section.ptx.sources))
    groups += [("evaluate", specs) for specs in (evaluate.domain, evaluate.general) if specs]
    rows = []
    for group, specs in groups:
        for source, spec in specs.items():
            known, licence = licence_of(spec)
            if domain and "{workdir}/data/" in spec:
                known, licence = _of_domain(domain)
            rows.append([group, source, f"`{without_paths(spec)}`", known or "-", licence])
    if not rows:
        return "No source of data is named in the config."
    return (
        card.table(["Stage", "Source", "Read from", "Set", "Licence"], rows)
        + "\n\nLicences are those of the public sets in icegrt_jax's docs/data.md, known by their path; what is not "
        f"among them is {UNKNOWN} here. No licence of this model is stated: it is for whoever passes it on to say."
    )


def _of_domain(name: str) -> tuple[str, str]:
    """What the domain says of its records and their licence; of one whose code is not here any more, its name."""
    try:
        found = load_domain(name)
    except UserError:
        return f"domain {without_paths(name)}", UNKNOWN
    return found.description, found.domain.licence


def _results(evaluate: EvaluateOptions, workdir: pathlib.Path, own: str) -> str:
    """The table of `icegrt evaluate`, if it has run."""
    file = workdir / "evaluate" / "results.json"
    if not (workdir / "evaluate" / "done.json").is_file() or not file.is_file():
        return "No evaluation has run: nothing is known here of how good its answers are.\n"
    results = files.read_json(file)
    columns = [
        (key, title) for key, title in columns_of(results) if any(key in row["metrics"] for row in results["rows"])
    ]
    rows = []
    for row in results["rows"]:
        name = f"**{row['name']}** (this model)" if row["name"] == own else row["name"]
        rows.append([name, *(cell(key, row, digits=1) for key, _ in columns)])
    said = "Evaluated before intervals were kept."
    if counts := results.get("prompts"):
        judges = [
            f"{counts[kind]} {title} prompts ({_judges(evaluate, kind)})"
            for kind, title in (("domain", "in-domain"), ("general", "general"))
            if counts[kind]
        ]
        said = (
            f"In brackets 95 % intervals over the prompts: {' and '.join(judges)}. It is one run: what another seed "
            "would change is not in them."
        )
        if any("gold_best" in row["metrics"] for row in results["rows"]):
            said += f" {AT_BEST[0].upper()}{AT_BEST[1:]}."
    return f"{card.table(['Stage', *(title for _, title in columns)], rows)}\n\n{said}\n{_compared(results, own)}"


def _compared(results: dict, own: str) -> str:
    """What this model has more than other rows, prompt by prompt; "" where nothing is known of it."""
    found = [one for _, lines in differences_of(results) for one in lines if one["row"] == own]
    if not found:
        return ""
    rows = [[f"this model minus {one['minus']}", one["title"], difference_cell(one)] for one in found]
    said = "Prompt by prompt, in points; in brackets 95 % intervals by bootstrap over the prompts."
    return f"\n{card.table(['Compared', 'Number', 'Difference'], rows)}\n\n{said}\n"


def _judges(evaluate: EvaluateOptions, kind: str) -> str:
    """The judges of a group of prompts."""
    default = getattr(evaluate, DEFAULTS[kind])
    names = dict.fromkeys(without_paths(evaluate.judges.get(source, default)) for source in getattr(evaluate, kind))
    return f"judge{'s' if len(names) > 1 else ''} {', '.join(f'`{name}`' for name in names)}"


def _held_out(workdir: pathlib.Path, stage: str) -> str:
    """Accuracy of the reward model on held-out pairs, for the exports of it."""
    if stage != "reward":
        return ""
    measured = finished(workdir / "reward").get("heldout", {})
    bins = workdir / "reward" / "calibration.json"
    counts = files.read_json(bins)["all"] if measured and bins.is_file() else {}
    rows = []
    for name, found in counts.items():
        accuracy, pairs = measured[f"{name}/accuracy"], int(sum(found["count"]))
        low, high = interval(accuracy, accuracy * (1 - accuracy), max(pairs, 1))
        rows.append([name, str(pairs), f"{100 * accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"])
    if not rows:
        return "\nNo held-out rankings were measured.\n"
    said = "In brackets 95 % intervals over the pairs, as if pairs of the same prompt were independent."
    return f"\n{card.table(['Held-out rankings', 'pairs', 'accuracy'], rows)}\n\n{said}\n"


def without_paths(value: Any) -> Any:
    """The value with the folders of this machine left out of every text in it; relative paths stay."""
    if isinstance(value, dict):
        return {key: without_paths(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(x) for x in value]
    return LOCAL.sub(".../", value) if isinstance(value, str) else value
