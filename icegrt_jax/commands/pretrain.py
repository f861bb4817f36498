"""`icegrt pretrain`: a small base model from plain text, for runs without a pretrained one."""

import pathlib

from icegrt_jax.config.options import Options
from icegrt_jax.data.records import Text
from icegrt_jax.runs import batch_check, inputs, notes, rundir, supervised


def main(config: Options, workdir: pathlib.Path) -> None:
    """Trains the base model, after a check of all that will be read."""
    notes.warn("pretrain", inputs.check(config, workdir, "pretrain"))
    train(config, workdir)


def train(config: Options, workdir: pathlib.Path) -> None:
    """Trains the base model; nothing to do where `model.path` names one."""
    if config.pretrain.steps:
        batch_check.check_batches(config.mesh, {"pretrain": config.pretrain}, workdir)
        run = rundir.start(config, workdir)
        supervised.train_policy(run, "pretrain", Text, config.pretrain, config.model, config.log)
