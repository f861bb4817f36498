"""`icegrt sft`: ICE-Instruct, supervised fine-tuning on in-domain and general instructions."""

import pathlib

from ml_collections import ConfigDict

from icegrt_jax.data.records import Instruction
from icegrt_jax.stages import common, inputs, supervised


def main(config: ConfigDict, workdir: pathlib.Path) -> None:
    """`train`, its inputs checked first."""
    common.warn("sft", inputs.check(config, workdir, "sft"))
    train(config, workdir)


def train(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains ICE-Instruct from the base model."""
    common.check_batches(config, workdir, "sft")
    common.require(workdir, "sft", *(["pretrain"] if config.pretrain.steps else []))
    supervised.train_policy(common.start(config, workdir), "sft", Instruction, common.lora_config(config.sft.lora))
