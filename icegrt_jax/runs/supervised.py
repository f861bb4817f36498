"""Next-token training of the policy: the base model from plain text, ICE-Instruct from conversations."""

import jax
from ml_collections import ConfigDict

from icegrt_jax.data.pipeline import sft_batches
from icegrt_jax.data.records import Record
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.lora import LoRAConfig
from icegrt_jax.runs import generation, loop, notes, rundir, sections, stage_models
from icegrt_jax.runs.roles import whole_or_adapter
from icegrt_jax.training.restore import PartRecord
from icegrt_jax.training.state import TrainState, create_state
from icegrt_jax.training.updates import sft_update


def first_state(
    config: ConfigDict,
    stage: str,
    key: jax.Array,
    model: ModelConfig,
    params: dict,
    lora: LoRAConfig | None,
    kept: dict,
    adapter_key: jax.Array,
) -> tuple[TrainState, dict[str, PartRecord]]:
    """The state before the first update, and what `done.json` says of an adapter.

    Args:
      params: of the policy, complete. kept: where they are kept, as a `PartRecord` says it.
      key: of the state. adapter_key: of the adapter, where `lora` asks for one.
    """
    section = config[stage]
    optimizer = sections.optimizer_config(section.optimizer, section.steps)
    trees, parts, records = whole_or_adapter(config, "policy", params, lora, adapter_key, kept)
    state = create_state(
        key, trees, {"policy": model}, {"policy": optimizer}, parts=parts, microbatch=section.microbatch
    )
    return state, records


def train_policy(run: rundir.Run, stage: str, kind: type[Record], lora: LoRAConfig | None = None) -> None:
    """Trains the policy, or an adapter of it, on the sources of `config[stage]` and keeps the result."""
    if rundir.finished(run, stage):
        return
    section = run.config[stage]
    model, params = stage_models.policy_before(run, stage)
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
        run.config, stage, run.key(stage), model, params, lora, stage_models.before_sft(run), run.adapter_key("sft")
    )
    del params  # under an adapter only the stored base is held
    _, step = loop.train_on_batches(run, stage, state, sft_update, batches, shown=("loss", "target_prob"))
    rundir.finish(run, stage, step=step, models={"policy": model}, parts=records)
