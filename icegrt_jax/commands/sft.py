"""`icegrt sft`: ICE-Instruct, supervised fine-tuning on in-domain and general instructions."""

import pathlib

from icegrt_jax.config.options import Options
from icegrt_jax.data.records import Instruction
from icegrt_jax.runs import batch_check, inputs, notes, rundir, sections, supervised


def main(config: Options, workdir: pathlib.Path) -> None:
    """Trains ICE-Instruct, after a check of all that will be read."""
    notes.warn("sft", inputs.check(config, workdir, "sft"))
    train(config, workdir)


def train(config: Options, workdir: pathlib.Path) -> None:
    """Trains ICE-Instruct from the base model."""
    batch_check.check_batches(config.mesh, {"sft": config.sft}, workdir)
    rundir.require(workdir, "sft", *(["pretrain"] if config.pretrain.steps else []))
    supervised.train_policy(
        rundir.start(config, workdir), "sft", Instruction, config.sft, config.model, config.log,
        lora=sections.lora_config(config.sft.lora), pretrained=bool(config.pretrain.steps),
    )  # fmt: skip
