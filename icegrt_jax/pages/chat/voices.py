"""The models of a run that can be talked to: the base model, ICE-Instruct, ICE-GRT, whichever are there."""

import pathlib
from collections.abc import Sequence

from icegrt_jax import files
from icegrt_jax.config.file import FILE_NAME
from icegrt_jax.errors import UserError
from icegrt_jax.pages.chat.talk import Voice
from icegrt_jax.runs.opened import open_model
from icegrt_jax.training.restore import is_finished


def of_run(workdir: pathlib.Path, stages: Sequence[tuple[str, str]]) -> list[Voice]:
    """The finished policies of a run, in the order of its stages.

    Args:
      stages: of each that leaves a policy its folder and what the policy is called; the first one's is the base model,
        which a run with `model.path` has there instead.
    """
    if not (workdir / FILE_NAME).is_file():
        raise UserError(f"--workdir={workdir}: no {FILE_NAME} here, so this is the folder of no run.")
    found = [(name, workdir / stage) for stage, name in stages if is_finished(workdir / stage)]
    given = files.read_json(workdir / FILE_NAME)["model"]["path"]
    if given and (not found or found[0][0] != stages[0][1]):
        found.insert(0, (stages[0][1], given))
    if not found:
        names = ", ".join(stage for stage, _ in stages)
        raise UserError(f"--workdir={workdir}: none of {names} has finished there; let one end, then talk to it.")
    return [Voice(name, open_model(folder)) for name, folder in found]
