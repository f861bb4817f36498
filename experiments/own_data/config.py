"""A small model from scratch on public data as they lie, each set in its own shape: --config=FILE:SET.

    ICEGRT_DATA=DIR icegrt pretrain --config=experiments/own_data/config.py --workdir=runs/base
    icegrt sft --config=experiments/own_data/config.py:gsm8k --from=runs/base:pretrain --workdir=runs/gsm8k

Two minutes for the base model, one for each set, on two cores; `large` is for large.py.
"""

import itertools

from icegrt_jax.config import default_config
from icegrt_jax.data.records import Text
from icegrt_jax.data.sources import load_source
from icegrt_jax.domains import Domain

TEXTS = {  # of the base model and its tokenizer: two columns that are called otherwise than `text`, and one that isn't
    "answers": "jsonl:instruct/dolly_hhrlhf/train.jsonl?text=output",
    "reasons": "jsonl:domain/liar_plus/train_from_val2.jsonl?text=justification",
    "messages": "jsonl:domain/sms_spam/train.jsonl",
}
MAPPED = "?prompt=question&response=answer"
SFT = {  # set: what is trained on, what is held out
    "alpaca": ("jsonl:instruct/alpaca/train.jsonl.gz", "jsonl:instruct/alpaca/heldout.jsonl"),
    "gsm8k": (f"jsonl:bench/gsm8k/train.jsonl{MAPPED}", f"jsonl:bench/gsm8k/test.jsonl{MAPPED}"),
    "cos_e": ("cos_e:domain/cos_e/train.jsonl.gz", "cos_e:domain/cos_e/test.jsonl"),
}
REWARD = {
    "hh_rlhf": (
        "jsonl:preference/hh_rlhf/train.jsonl.gz?shape=transcript",
        "jsonl:preference/hh_rlhf/heldout.jsonl.gz?shape=transcript",
    ),
    "comve": ("jsonl:preference/comve_reasons_kway/train.jsonl.gz", "jsonl:preference/comve_reasons_kway/test.jsonl"),
}
# Prompts, on whose answers a reward model's scores are normalised: the reference lies in an object.
QUESTIONS = "jsonl:bench/triviaqa/validation.jsonl?prompt=question&reference=answer.value"
SWITCHES = ("", "large", *SFT, *REWARD)


class Texts(Domain):
    """Public texts: nothing is made, the tokenizer is trained on them as they lie."""

    sets = {"none": Text}

    def records(self, name, size, seed):
        return []

    def tokenizer(self, sizes, seed):
        return itertools.chain.from_iterable(
            (record.text for record in load_source(source, kind=Text)) for source in TEXTS.values()
        )


def get_config(switch=""):
    c = default_config()
    c.domain, c.tokenizer.vocab_size = f"{__file__}:Texts", 2048
    c.model.d_model, c.model.num_layers, c.model.d_ff = 128, 3, 256
    c.model.num_heads, c.model.num_kv_heads, c.model.head_dim, c.model.init_std = 4, 2, 32, 0.09
    c.log.every, c.log.checkpoint_every = 50, 1000

    c.pretrain.steps, c.pretrain.batch_size, c.pretrain.length = 400, 8, 128
    c.pretrain.sources.update({"large": "jsonl:large.jsonl"} if switch == "large" else TEXTS)
    c.pretrain.weights.update(dict.fromkeys(c.pretrain.sources, 1.0))
    c.pretrain.optimizer.lr, c.pretrain.optimizer.warmup_steps, c.pretrain.optimizer.schedule = 2e-3, 50, "cosine"
    if switch == "large":
        c.model.d_model, c.model.num_layers, c.model.d_ff = 64, 1, 128
        c.model.num_heads, c.model.num_kv_heads, c.tokenizer.vocab_size = 2, 1, 1024
        c.pretrain.steps, c.pretrain.batch_size, c.pretrain.length = 300, 1, 512
        c.log.checkpoint_every = 10_000
        return c

    # Reward models begin with ICE-Instruct of the first set.
    name = "alpaca" if switch in REWARD else switch or "alpaca"
    c.sft.sources[name], c.sft.heldout[name] = SFT[name]
    c.sft.weights[name] = 1.0
    if switch in REWARD:
        c.reward.sources[switch], c.reward.heldout[switch] = REWARD[switch]
        c.reward.weights[switch] = 1.0
    for stage in (c.sft, c.reward):
        stage.steps, stage.batch_size, stage.length, stage.overlong = 150, 8, 192, "cut"
        stage.heldout_every, stage.heldout_limit = 150, 200
        stage.optimizer.lr, stage.optimizer.warmup_steps, stage.optimizer.schedule = 1e-3, 20, "cosine"
    if switch not in REWARD:
        c.reward.steps = 0
    c.reward.normalize_on, c.max_prompt_length, c.max_response_length = 32, 96, 8
    c.ppo.sources.questions, c.ppo.weights.questions = QUESTIONS, 1.0
    return c
