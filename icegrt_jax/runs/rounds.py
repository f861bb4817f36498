"""Where the rounds of a run lie. Each has a folder that is a workdir by itself; the last one has the run's own.

    WORKDIR/rounds/1/reward, ppo         of the first round; data, tokenizer and earlier stages are links to WORKDIR's
    WORKDIR/data/rankings_round2.jsonl   answers of its policy and of ICE-Instruct, ranked: see `annotation.py`
    WORKDIR/reward, ppo                  of the last round, found as those of any run

A round is as a run of that many rounds whose last it is, so every command can be called in its folder.
"""

import os
import pathlib
from collections.abc import Iterable

from icegrt_jax import files, sums
from icegrt_jax.config import file as config_file
from icegrt_jax.config.rounds import file_of
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync

FOLDER = "rounds"
SHARED = ("data", "tokenizer", "compile_cache")  # with the run, beside the stages before the first round


def folder_of(workdir: pathlib.Path, number: int, rounds: int) -> pathlib.Path:
    """Of a round among so many."""
    return workdir if number == rounds else workdir / FOLDER / str(number)


def before(workdir: pathlib.Path, rounds: int) -> pathlib.Path:
    """Of the round before the last of so many."""
    return workdir / FOLDER / str(rounds - 1)


def open_folder(workdir: pathlib.Path, number: int, stages: Iterable[str], config: config_file.Group) -> None:
    """Makes the folder of a round that is not the last one: links, and the config of a run whose last it is.

    Args:
      stages: before the first round.
    """
    folder = workdir / FOLDER / str(number)
    whole = lambda: all((folder / name).is_file() for name in (config_file.FILE_NAME, "ppo/done.json"))
    if sync.from_main(f"round {number} is looked for", whole):
        return

    def write() -> None:
        (workdir / "data").mkdir(exist_ok=True)
        links = {folder / name: workdir / name for name in (*SHARED, *stages)}
        links |= {folder / FOLDER / str(n): workdir / FOLDER / str(n) for n in range(1, number)}
        for link, target in links.items():
            if target.exists() and not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(os.path.relpath(target, link.parent))
        if (workdir / sums.FILE_NAME).exists():
            sums.begin(folder)
        files.write_text_atomic(folder / config_file.FILE_NAME, config_file.to_json(config))

    sync.main_first(folder / config_file.FILE_NAME, write)


def require(workdir: pathlib.Path, rounds: int) -> None:
    """Refuses to begin with the last round by itself before the others have been gone through."""
    path = workdir / "data" / file_of(rounds)
    if rounds > 1 and not path.is_file():
        raise UserError(
            f"{path}: not there, so round {rounds} of {rounds} cannot begin; `icegrt run` goes through the rounds "
            "before it and has their answers ranked."
        )
