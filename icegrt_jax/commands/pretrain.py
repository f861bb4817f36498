"""`icegrt pretrain`: a small base model from plain text, for runs without a pretrained one."""

from icegrt_jax.commands import report
from icegrt_jax.data.records import Text
from icegrt_jax.report import panels
from icegrt_jax.runs import begin, supervised
from icegrt_jax.runs.stage import Stage

STAGE = Stage(
    "pretrain",
    train=lambda run, config: supervised.train_policy(
        run,
        "pretrain",
        Text,
        config.pretrain,
        config.model,
        config.log,
        watchers=report.while_training(run.workdir, config.log),
    ),  # fmt: skip
    steps=lambda config: config.pretrain.steps,
    readings=lambda config, policy, _: supervised.readings("pretrain", config.pretrain, Text, policy),
    title="Base model: next-token training",
    panels=panels.LANGUAGE_MODEL,
)
main = begin.program(STAGE)
