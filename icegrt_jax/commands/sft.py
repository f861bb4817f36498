"""`icegrt sft`: ICE-Instruct, supervised fine-tuning on in-domain and general instructions."""

from icegrt_jax.commands import report
from icegrt_jax.data.records import Instruction
from icegrt_jax.report import panels
from icegrt_jax.runs import begin, sections, supervised
from icegrt_jax.runs.stage import Stage

STAGE = Stage(
    "sft",
    train=lambda run, config: supervised.train_policy(
        run,
        "sft",
        Instruction,
        config.sft,
        config.model,
        config.log,
        lora=sections.lora_config(config.sft.lora),
        pretrained=bool(config.pretrain.steps),
        watchers=report.while_training(run.workdir, config.log),
    ),  # fmt: skip
    steps=lambda config: config.sft.steps,
    due=lambda config: True,
    needs=lambda config: ("pretrain",) if config.pretrain.steps else (),
    readings=lambda config, policy, _: supervised.readings("sft", config.sft, Instruction, policy),
    title="ICE-Instruct: supervised fine-tuning",
    panels=panels.LANGUAGE_MODEL,
)
main = begin.program(STAGE)
