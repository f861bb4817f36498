"""`icegrt sft`: ICE-Instruct, supervised fine-tuning on in-domain and general instructions."""

import pathlib

from ml_collections import ConfigDict

from icegrt_jax.data.records import Instruction
from icegrt_jax.runs import batch_check, inputs, notes, rundir, sections, supervised


def main(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains ICE-Instruct, after a check of all that will be read."""
    notes.warn("sft", inputs.check(config, workdir, "sft"))
    train(config, workdir)


def train(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains ICE-Instruct from the base model."""
    batch_check.check_batches(config, workdir, "sft")
    rundir.require(workdir, "sft", *(["pretrain"] if config.pretrain.steps else []))
    supervised.train_policy(rundir.start(config, workdir), "sft", Instruction, sections.lora_config(config.sft.lora))
