"""Rounds of annotation: their rankings as sources of the reward model, and what must fit together."""

import dataclasses

from icegrt_jax import plugins
from icegrt_jax.config.choices import JUDGES, MODEL
from icegrt_jax.config.judge_model import check_judge_model
from icegrt_jax.config.options import AnnotationOptions, PPOOptions, RewardOptions
from icegrt_jax.errors import UserError

RANKING_PROMPTS = "jsonl:{workdir}/data/ranking_prompts.jsonl"  # the domain's prompts whose answers are ranked
DOMAIN, PEOPLE = "domain", "people"  # of annotation.by, beside the judges


def name_of(number: int) -> str:
    """Of the rankings of a round among the reward model's sources; the first round has those of the config alone."""
    return f"round{number}"


def file_of(number: int) -> str:
    """Of the rankings made before a round, in WORKDIR/data."""
    return f"rankings_{name_of(number)}.jsonl"


def spec_of(number: int) -> str:
    """The same as a source."""
    return f"jsonl:{{workdir}}/data/{file_of(number)}"


def is_made(spec: str) -> bool:
    """Whether a source is the rankings of a round."""
    return spec.startswith("jsonl:{workdir}/data/rankings_round")


def with_rankings(reward: RewardOptions, rounds: int, weight: float) -> RewardOptions:
    """What the reward model of the last of so many rounds is trained with: the rankings of all of them."""
    later = [(name_of(number), spec_of(number)) for number in range(2, rounds + 1)]
    weights = {**reward.weights, **{name: weight for name, _ in later}}
    return dataclasses.replace(reward, sources={**reward.sources, **dict(later)}, weights=weights)


def check(
    rounds: int, annotation: AnnotationOptions, reward: RewardOptions, ppo: PPOOptions, weight: float, domain: str
) -> None:
    """Refuses rounds that could not be gone through.

    Args:
      weight: of the reward model in PPO; 0: it has none.
    """
    known = (DOMAIN, PEOPLE, *(name for name in JUDGES if name != DOMAIN), *plugins.built_in("domains"))
    plugins.check_name("annotation.by", annotation.by, known)
    used = "annotation.by" if rounds > 1 and annotation.by == MODEL else ""
    check_judge_model("annotation.judge_model.", annotation.judge_model, used)
    if annotation.policy_k + annotation.instruct_k < 2:
        raise UserError("annotation.policy_k=1 with annotation.instruct_k=0: one answer has no rank; set more of them.")
    if annotation.prompts and ":" not in annotation.prompts:
        raise UserError(f"annotation.prompts={annotation.prompts!r}; expected FORMAT:PATH, such as jsonl:rows.jsonl.")
    if rounds == 1:
        return
    if not (reward.steps and ppo.iterations and weight):
        raise UserError(
            f"rounds={rounds}: each round trains a reward model and the policy by it; set reward.steps and "
            "ppo.iterations above 0 and leave the reward model its weight, or set rounds=1."
        )
    if annotation.by == DOMAIN and not domain:
        raise UserError("annotation.by='domain', but domain is empty; name a domain, a judge or 'people'.")
    if not annotation.prompts and not domain:
        raise UserError("annotation.prompts is empty, and so is domain, whose prompts they would be; name a source.")
    if taken := [name for number in range(2, rounds + 1) if (name := name_of(number)) in reward.sources]:
        raise UserError(f"reward.sources.{taken[0]}: the rankings of a round have that name; give yours another.")
