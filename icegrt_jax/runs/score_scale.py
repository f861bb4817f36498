"""Mean and spread of what reward models say of ICE-Instruct's answers, and several of them put together by it."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax import files
from icegrt_jax.config.choices import ParamDtype
from icegrt_jax.config.options import ScoreOptions
from icegrt_jax.hosts import sync
from icegrt_jax.models.members import Members
from icegrt_jax.models.quantize import stored_as
from icegrt_jax.rl import ScoreStats, ensemble_scores, on_one_scale

SCORES = "member_scores.json"  # in WORKDIR/reward: of each answer of ICE-Instruct what each member says


def moments(scores: np.ndarray) -> ScoreStats:
    """Mean and standard deviation of scores f32[N]."""
    return ScoreStats.create(float(scores.mean()), float(scores.std()))


def stored(params: dict | Members, frozen: ParamDtype) -> dict | Members:
    """As PPO will hold it."""
    return params.stored_as(frozen) if isinstance(params, Members) else stored_as(params, frozen)


@dataclasses.dataclass(frozen=True)
class Scale:
    """On what scale the scores of several reward models are, and of what is put together the mean and spread.

    Attributes:
      mean, std: f32[M].
    """

    mean: np.ndarray
    std: np.ndarray
    scores: np.ndarray

    def together(self, scores: np.ndarray, rule: ScoreOptions) -> np.ndarray:
        """f32[N] of f32[N, M]."""
        with jax.ensure_compile_time_eval():  # a plan asks while it traces
            scaled = on_one_scale(jnp.asarray(scores), jnp.asarray(self.mean), jnp.asarray(self.std))
            return np.asarray(ensemble_scores(scaled, method=rule.ensemble, coef=rule.ensemble_coef))

    def stats(self, rule: ScoreOptions) -> ScoreStats:
        """Of what the members say of ICE-Instruct's answers together."""
        return moments(self.together(self.scores, rule))


def scale_of(scores: np.ndarray) -> Scale:
    """By the scores f32[N, M] of ICE-Instruct's answers."""
    scores = np.asarray(scores, np.float32)
    return Scale(scores.mean(axis=0), scores.std(axis=0), scores)


def read_scale(folder: pathlib.Path) -> Scale | None:
    """Of the finished reward stage in `folder`; None where it has left one model that scores."""
    read = lambda: files.read_json(folder / SCORES)["scores"] if (folder / SCORES).is_file() else None
    scores = sync.from_main("reward: the scale of several models is looked for", read)
    return None if scores is None else scale_of(scores)


def members_state(scale: Scale | None) -> dict[str, jax.Array]:
    """`TrainState.members`."""
    return {} if scale is None else {"mean": jnp.asarray(scale.mean), "std": jnp.asarray(scale.std)}
