"""`icegrt pretrain`: a small base model from plain text, for runs without a pretrained one."""

import pathlib

from ml_collections import ConfigDict

from icegrt_jax.data.records import Text
from icegrt_jax.runs import batch_check, inputs, notes, rundir, supervised


def main(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains the base model, after a check of all that will be read."""
    notes.warn("pretrain", inputs.check(config, workdir, "pretrain"))
    train(config, workdir)


def train(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains the base model; nothing to do where `model.path` names one."""
    if config.pretrain.steps:
        batch_check.check_batches(config, workdir, "pretrain")
        supervised.train_policy(rundir.start(config, workdir), "pretrain", Text)
