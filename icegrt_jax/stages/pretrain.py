"""`icegrt pretrain`: a small base model from plain text, for runs without a pretrained one."""

import pathlib

from ml_collections import ConfigDict

from icegrt_jax.data.records import Text
from icegrt_jax.stages import common, inputs, supervised


def main(config: ConfigDict, workdir: pathlib.Path) -> None:
    """`train`, its inputs checked first."""
    common.warn("pretrain", inputs.check(config, workdir, "pretrain"))
    train(config, workdir)


def train(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains the base model; nothing to do where `model.path` names one."""
    if config.pretrain.steps:
        common.check_batches(config, workdir, "pretrain")
        supervised.train_policy(common.start(config, workdir), "pretrain", Text)
