"""`icegrt pretrain`: a small base model from plain text, for runs without a pretrained one."""

import pathlib

from icegrt_jax.config.options import Options
from icegrt_jax.data.records import Text
from icegrt_jax.report import panels
from icegrt_jax.runs import begin, supervised
from icegrt_jax.runs.stage import Stage


def train(config: Options, workdir: pathlib.Path) -> None:
    """Trains the base model; nothing to do where `model.path` names one."""
    if config.pretrain.steps and (run := begin.begin(STAGE, config, workdir)):
        supervised.train_policy(run, "pretrain", Text, config.pretrain, config.model, config.log)


STAGE = Stage(
    "pretrain",
    train,
    steps=lambda config: config.pretrain.steps,
    readings=lambda config, policy, _: supervised.readings("pretrain", config.pretrain, Text, policy),
    title="Base model: next-token training",
    panels=panels.LANGUAGE_MODEL,
)
main = begin.program(STAGE)
