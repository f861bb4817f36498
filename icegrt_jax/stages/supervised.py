"""Next-token training of the policy: the base model from plain text, ICE-Instruct from conversations."""

from icegrt_jax.data.pipeline import sft_batches
from icegrt_jax.data.records import Record
from icegrt_jax.models.lora import LoRAConfig
from icegrt_jax.stages import common, layouts, loop
from icegrt_jax.stages.roles import whole_or_adapter
from icegrt_jax.training.state import create_state
from icegrt_jax.training.updates import sft_update


def train_policy(run: common.Run, stage: str, kind: type[Record], lora: LoRAConfig | None = None) -> None:
    """Trains the policy, or an adapter of it, on the sources of `config[stage]` and keeps the result."""
    if common.finished(run, stage):
        return
    section = run.config[stage]
    model, params = common.policy_before(run, stage)
    layouts.show_mesh(run, stage, {"policy": model})
    batches = sft_batches(
        run.load(section.sources, kind),
        section.weights,
        run.tokenizer,
        batch_size=section.batch_size,
        length=section.length,
        seed=run.config.seed,
        packing=section.packing,
        overlong=section.overlong,
        share=run.share,
    )
    # Plain texts are split over rows, and only the last piece has EOS.
    common.audit(run, stage, batches, run.tokenizer, cut=stage == "pretrain" or section.overlong == "cut")
    common.write_report(run, stage, batches.report)
    optimizer = common.optimizer_config(section.optimizer, section.steps)
    key = run.key("base" if stage == "pretrain" else stage)
    trees, parts, records = whole_or_adapter(run, "policy", params, lora, key, common.before_sft(run))
    del params  # under an adapter only the stored base is held
    state = create_state(key, trees, {"policy": model}, {"policy": optimizer}, parts=parts)
    state = loop.train(run, stage, state, sft_update, batches, shown=("loss", "target_prob"))
    loop.save_last(run, stage, section.steps, state)
    common.finish(run, stage, step=section.steps, models={"policy": model}, parts=records)
