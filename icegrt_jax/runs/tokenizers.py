"""The tokenizers of a run: the policy's in WORKDIR/tokenizer, ICE-Reward's in WORKDIR/reward/tokenizer."""

import os
import pathlib
import shutil
import tempfile

from icegrt_jax import sums
from icegrt_jax.config.estimators import ESTIMATORS
from icegrt_jax.config.options import OriginOptions, PPOOptions, RewardOptions, ValueOptions
from icegrt_jax.data.tokenizers import ChatTokenizer, load_tokenizer, same_tokenizer, train_bpe
from icegrt_jax.domains import load as load_domain
from icegrt_jax.errors import UserError
from icegrt_jax.models.hf.config import is_scalar, read_hf_config, to_model_config
from icegrt_jax.models.hf.hub import local_folder
from icegrt_jax.models.vocabulary import check_tokenizer


def policy_tokenizer(origin: OriginOptions, workdir: pathlib.Path) -> ChatTokenizer:
    """The run's own copy; made at first from the model's, or the domain's: named by it, or trained on its texts."""
    folder = workdir / "tokenizer"
    if not folder.is_dir():
        _refuse_none(origin)
        temporary = _emptied(workdir / ".tokenizer.tmp")
        _write_new(origin, temporary)
        sums.take(temporary)
        os.replace(temporary, folder)
    return load_tokenizer(folder)


def future_tokenizer(origin: OriginOptions, workdir: pathlib.Path | None = None) -> ChatTokenizer:
    """What `policy_tokenizer` gives in `workdir`, or in a new one, without writing it there."""
    if workdir is not None and (folder := pathlib.Path(workdir) / "tokenizer").is_dir():
        return load_tokenizer(folder)
    if origin.model.path:
        folder = local_folder(origin.model.path)
        if not folder.is_dir():
            raise UserError(f"model.path={origin.model.path!r}: no such folder; expected a Hugging Face folder.")
        return load_tokenizer(folder)
    _refuse_none(origin)
    with tempfile.TemporaryDirectory() as temporary:
        _write_new(origin, pathlib.Path(temporary) / "tokenizer")
        return load_tokenizer(pathlib.Path(temporary) / "tokenizer")


def reward_tokenizer(reward: RewardOptions, workdir: pathlib.Path | None = None) -> ChatTokenizer | None:
    """The copy that the reward stage keeps in `workdir`, or that of the Hugging Face folder it starts from.

    None where it starts from ICE-Instruct or from scratch, and so has the policy's.
    """
    init = reward.init
    if init in ("sft", "scratch"):
        return None
    if workdir is not None and (kept := pathlib.Path(workdir) / "reward" / "tokenizer").is_dir():
        return load_tokenizer(kept)
    folder = local_folder(init)
    if not folder.is_dir():
        raise UserError(f"reward.init={init!r}: no such folder; expected sft, scratch or a Hugging Face folder.")
    return load_tokenizer(folder)


def keep_reward_tokenizer(tokenizer: ChatTokenizer, workdir: pathlib.Path) -> None:
    """Writes WORKDIR/reward/tokenizer, whole or not at all; one that is there stays."""
    folder = workdir / "reward" / "tokenizer"
    if not folder.is_dir():
        temporary = _emptied(folder.with_name(".tokenizer.tmp"))
        tokenizer.save(temporary)
        sums.take(temporary)
        os.replace(temporary, folder)


def check_tokenizers(
    origin: OriginOptions, reward: RewardOptions, value: ValueOptions, ppo: PPOOptions, workdir: pathlib.Path
) -> None:
    """Refuses a reward model that has no tokenizer, and a critic that starts from one with another than the policy's.

    Called before the stage starts: nothing has been written yet.
    """
    own = reward_tokenizer(reward, workdir)
    if own is not None:
        _check_reward_folder(reward, own)
    from_reward = ESTIMATORS[ppo.estimator].critic and value.init == "reward" and value.trunk == "own"
    if own is None or not from_reward or not ppo.iterations:
        return
    if not same_tokenizer(own, future_tokenizer(origin, workdir)):
        raise UserError(
            f"reward.init={reward.init!r} has another tokenizer or chat template than the policy; the critic "
            "values the policy's tokens, so it cannot start from that model: set value.init='sft' or "
            "value.trunk='policy'."
        )


def _check_reward_folder(reward: RewardOptions, tokenizer: ChatTokenizer) -> None:
    """Refuses, by its config.json alone, a model that does not go with its tokenizer, or scores nothing and never will.

    Where the folder is no longer here the stage's own copy stands for it.
    """
    folder, name = local_folder(reward.init), f"reward.init={reward.init!r}"
    if not folder.is_dir():
        return
    raw = read_hf_config(folder)
    rows = to_model_config(raw, folder, scan_layers=False, dtype="float32").vocab_size
    check_tokenizer(tokenizer, rows, name)
    if not reward.steps and not is_scalar(raw):
        raise UserError(
            f"{name} with reward.steps=0: a language model, which scores nothing; name a finished reward model (a "
            "sequence classifier with one label), or train this one: reward.steps above 0."
        )


def _refuse_none(origin: OriginOptions) -> None:
    if not origin.model.path and not origin.domain:
        raise UserError("model.path is empty and so is domain: there is no tokenizer; name a Hugging Face folder.")


def _write_new(origin: OriginOptions, folder: pathlib.Path) -> None:
    if origin.model.path:
        load_tokenizer(local_folder(origin.model.path)).save(folder)
        return
    found = load_domain(origin.domain).tokenizer(origin.domain_sizes, origin.seed)
    if isinstance(found, str):
        load_tokenizer(local_folder(found)).save(folder)
    else:
        train_bpe(found, origin.tokenizer.vocab_size, folder)


def _emptied(temporary: pathlib.Path) -> pathlib.Path:
    """The folder's name without what a killed run left there."""
    shutil.rmtree(temporary, ignore_errors=True)
    return temporary
