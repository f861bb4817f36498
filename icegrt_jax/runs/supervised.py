"""Next-token training of the policy: the base model from plain text, ICE-Instruct from conversations."""

from collections.abc import Iterator, Sequence

import jax

from icegrt_jax.config.choices import ParamDtype
from icegrt_jax.config.options import LogOptions, ModelOptions, SupervisedOptions
from icegrt_jax.data.encode import fit_examples
from icegrt_jax.data.pipeline import sft_batches
from icegrt_jax.data.records import Instruction, Record, Text
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.lora import LoRAConfig
from icegrt_jax.runs import (
    generation,
    heldout,
    heldout_loss,
    inputs,
    loop,
    notes,
    rates,
    rundir,
    sections,
    stage_models,
    trackers,
)
from icegrt_jax.runs.reading import Reading
from icegrt_jax.runs.roles import whole_or_adapter
from icegrt_jax.training.restore import PartRecord
from icegrt_jax.training.state import TrainState, create_state
from icegrt_jax.training.updates import sft_update


def first_state(
    section: SupervisedOptions,
    frozen: ParamDtype,
    key: jax.Array,
    model: ModelConfig,
    params: dict,
    lora: LoRAConfig | None,
    kept: dict,
    adapter_key: jax.Array,
) -> tuple[TrainState, dict[str, PartRecord]]:
    """The state before the first update, and what `done.json` says of an adapter.

    Args:
      section: of the stage. frozen: dtype of the base under an adapter.
      params: of the policy, complete. kept: where they are kept, as a `PartRecord` says it.
      key: of the state. adapter_key: of the adapter, where `lora` asks for one.
    """
    optimizer = sections.optimizer_config(section.optimizer, section.steps)
    trees, parts, records = whole_or_adapter(frozen, "policy", params, lora, adapter_key, kept)
    state = create_state(
        key, trees, {"policy": model}, {"policy": optimizer}, parts=parts, microbatch=section.microbatch
    )
    return state, records


def readings(stage: str, section: SupervisedOptions, kind: type[Record], tokenizer: ChatTokenizer) -> Iterator[Reading]:
    """What `train_policy` reads."""
    fit = lambda records: fit_examples(records, tokenizer, section.length, section.overlong)
    length = inputs.tokens(f"{stage}.length", section.length)
    yield from inputs.mixture(stage, section, kind, fit, length)
    for name, spec in section.heldout.items():
        yield Reading(f"{stage}.heldout.{name}", spec, kind, fit, length, section.heldout_limit, measures=True)


def train_policy(
    run: rundir.Run,
    stage: str,
    kind: type[Instruction] | type[Text],
    section: SupervisedOptions,
    base: ModelOptions,
    log: LogOptions,
    *,
    lora: LoRAConfig | None = None,
    pretrained: bool = False,
    watchers: Sequence[loop.Watcher] = (),
) -> None:
    """Trains the policy, or an adapter of it, and keeps the result.

    Args:
      base: the base model. pretrained: it is the one of the run's own `pretrain`.
      watchers: further ones of the loop.
    """
    model, params = stage_models.before_sft(run, base, pretrained=pretrained)
    generation.show_mesh(run, stage, {"policy": model})
    batches = sft_batches(
        run.load(section.sources, kind),
        section.weights,
        run.tokenizer,
        batch_size=section.batch_size,
        length=section.length,
        seed=run.data_seed(stage),
        packing=section.packing,
        overlong=section.overlong,
        share=run.share,
    )
    # Plain texts are split over rows, and only the last piece has EOS.
    notes.audit(run, stage, batches, run.tokenizer, cut=stage == "pretrain" or section.overlong == "cut")
    notes.write_report(run, stage, batches.report)
    state, records = first_state(
        section,
        base.param_dtype,
        run.key(stage),
        model,
        params,
        lora,
        stage_models.kept_before_sft(base, pretrained=pretrained),
        run.adapter_key("sft"),
    )
    del params  # under an adapter only the stored base is held
    keeper, measuring = heldout.watch(
        run, stage, section, section.steps, lambda: heldout_loss.measure_loss(run, section, kind)
    )
    _, step = loop.train_on_batches(
        run, stage, section.steps, log, state, sft_update, batches, shown=("loss", "target_prob"),
        watchers=(*measuring, rates.of_updates(state, section.steps, log.every), *watchers),
        writers=trackers.writers(log),
    )  # fmt: skip
    info = keeper.info() if keeper else {}
    rundir.finish(run, stage, step=step, models={"policy": model}, parts=records, **info)
