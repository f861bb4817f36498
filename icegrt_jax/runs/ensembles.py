"""Several reward models of a run (`reward.ensemble`): what they start from, their scale, and one of their mean weights.

each scores          arXiv 2310.02743: PPO puts their scores together, see `training.rewards.centred_verdicts`
weights averaged     WARM, arXiv 2401.12187: the stage leaves one model
"""

import dataclasses
from typing import Any

import numpy as np

from icegrt_jax import files
from icegrt_jax.config.choices import ParamDtype
from icegrt_jax.config.options import RewardOptions
from icegrt_jax.data.tokenizers import ChatTokenizer, load_tokenizer, same_tokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.hf.hub import local_folder
from icegrt_jax.models.lora import with_adapter
from icegrt_jax.models.members import Members, mean_weights, stacked
from icegrt_jax.rl import ScoreStats
from icegrt_jax.runs import reward_model, stage_models
from icegrt_jax.runs.rundir import Run
from icegrt_jax.runs.score_scale import SCORES, moments
from icegrt_jax.sharding.put import shard_tree
from icegrt_jax.training.checkpoints import Checkpoints
from icegrt_jax.training.members import together
from icegrt_jax.training.restore import AVERAGE, PartRecord
from icegrt_jax.training.state import TrainState


def first_states(
    run: Run, tokenizer: ChatTokenizer, section: RewardOptions, frozen: ParamDtype, kept: dict
) -> tuple[ModelConfig, TrainState, dict[str, PartRecord]]:
    """Shape, the state before the first update, of one model or of several side by side, and its records.

    Each has a new head of its own where the head is new, and an adapter; one from scratch is all new. Those whose
    weights are to be averaged begin alike, as WARM has it, and differ by the order of their data.

    Args: as of `reward_model.first_state`.
    """
    alike, begun = section.ensemble_as == "weights", []
    for number in range(section.ensemble):
        own = 0 if alike else number
        start = reward_model.initial_reward_model(run, tokenizer, section, run.member_key(own, "head"))
        model, params, unembedding = start
        keys = run.key("reward_updates"), run.member_key(own, "adapter")
        begun.append(reward_model.first_state(section, frozen, keys[0], model, params, kept, keys[1], unembedding))
    states = [state for state, _ in begun]
    return model, states[0] if len(states) == 1 else together(states), begun[0][1]


def data_seeds(run: Run, section: RewardOptions) -> list[int]:
    """Of the order of the data of each model after the first."""
    return [run.data_seed(f"reward/{number}") for number in range(1, section.ensemble)]


def given(run: Run, tokenizer: ChatTokenizer, section: RewardOptions) -> tuple[ModelConfig, dict | Members]:
    """The finished model that `reward.init` names, or that and those of `reward.ensemble_with`."""
    model, params, _ = reward_model.initial_reward_model(run, tokenizer, section)
    if not section.ensemble_with:
        return model, params
    trees = [params]
    for number, path in enumerate(section.ensemble_with):
        name = f"reward.ensemble_with[{number}]={path!r}"
        if not same_tokenizer(load_tokenizer(local_folder(path)), tokenizer):
            raise UserError(f"{name} has another tokenizer than reward.init={section.init!r}; use models of one kind.")
        other, own = stage_models.load_folder(run, path, section.model)
        if dataclasses.replace(other, max_length=model.max_length) != model:
            raise UserError(f"{name} is not of the shape of reward.init={section.init!r}; use models of one shape.")
        if "head" not in own:
            raise UserError(f"{name} has no scalar head; name a finished reward model.")
        trees.append(own)
    members = Members(stacked(trees))
    return model, shard_tree(mean_weights(members)[0] if section.ensemble_as == "weights" else members, run.mesh)


def leave_average(run: Run, state: TrainState, step: int) -> tuple[dict, dict[str, Any]]:
    """Keeps the model of the mean weights in `reward/average`; it complete, and what `done.json` says of it."""
    members = state.full("reward")
    assert isinstance(members, Members), "of several"
    own, lora = mean_weights(members)
    own = shard_tree(own, run.mesh)
    with Checkpoints(run.folder("reward") / AVERAGE, keep=1) as checkpoints:
        checkpoints.save(step, {"params": {"reward": own}})
    if sync.is_main():
        print(f"reward  the mean weights of {members.count} reward models are kept", flush=True)
    average = {"step": step, "of": members.count, **({} if lora is None else {"lora": dataclasses.asdict(lora)})}
    complete = own if members.base is None else with_adapter(members.base, own, lora)
    return complete, {"average": average, "use": AVERAGE}


def normalization(run: Run, scores: np.ndarray) -> ScoreStats:
    """Mean and spread of what one model says of ICE-Instruct's answers, f32[N]; of several, f32[N, M], of their mean.

    What each of several says is kept, so that PPO can put it together as it wants.
    """
    if scores.ndim == 2:
        path = run.folder("reward") / SCORES
        sync.main_first(path, lambda: files.write_json_atomic(path, {"scores": scores.tolist()}))
        scores = scores.mean(axis=1)
    return moments(scores)
