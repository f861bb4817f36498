"""Which of the user's own code a run was made with, by fingerprint, and where that is not the code of today."""

import pathlib
from collections.abc import Iterable

from icegrt_jax import files, plugins
from icegrt_jax.config.options import EvaluateOptions, PPOOptions, RewardOptions

DATA = "domain.json"  # in WORKDIR/data: the domain that wrote it


def names(
    domain: str, reward: RewardOptions, ppo: PPOOptions, evaluate: EvaluateOptions, annotator: str = ""
) -> dict[str, tuple[str, ...]]:
    """{stage: FILE.py:NAME, …} of the user's code that a stage runs itself; its data are noted apart."""
    ranks = reward.steps and reward.on_policy_k
    named = {
        "reward": [domain if ranks else "", annotator],
        "ppo": [ppo.judge, *ppo.judges.values(), *ppo.rewards.values()],
        "evaluate": [evaluate.judge, evaluate.general_judge, *evaluate.judges.values()],
    }
    of_domain = lambda name: domain if name == "domain" else name
    return {
        stage: tuple(spec for spec in map(of_domain, every) if plugins.is_own(spec)) for stage, every in named.items()
    }


def note_data(domain: str, data: pathlib.Path) -> None:
    """Writes beside the records of a user's domain which code has made them."""
    if code := fingerprints([domain]):
        files.write_json_atomic(data / DATA, {"code": code})


def changes(workdir: pathlib.Path) -> list[str]:
    """A warning for each part of the run that was made, or begun, with other code than is there now."""
    said = []
    for file in (workdir / "data" / DATA, *sorted(workdir.glob("*/done.json")), *sorted(workdir.glob("*/data.json"))):
        code = files.read_json(file).get("code", {}) if file.is_file() else {}
        for spec, then in code.items():
            now = plugins.fingerprint(spec)
            line = (
                f"{file.parent} was made with {spec} as it was (SHA-256 {then[:12]}), which has changed since "
                f"({now[:12] if now else 'not there'}): it stays as it is; delete that folder to make it anew."
            )
            said += [line] if now != then and line not in said else []
    return said


def fingerprints(specs: Iterable[str]) -> dict[str, str]:
    """{FILE.py:NAME: SHA-256 of the file} of those that are the user's."""
    own = dict.fromkeys(spec for spec in specs if plugins.is_own(spec))
    return {spec: found for spec in own if (found := plugins.fingerprint(spec))}
