"""A small model from scratch on public data as they lie, each set in its own shape.

    ICEGRT_DATA=DIR icegrt pretrain --config=experiments/own_data/config.py --workdir=runs/own_data

and then `sft` and `reward`: about a minute each on two cores.
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


class Texts(Domain):
    """Public texts: nothing is made, the tokenizer is trained on them as they lie."""

    sets = {"none": Text}

    def records(self, name, size, seed):
        return []

    def tokenizer(self, sizes, seed):
        return itertools.chain.from_iterable(
            (record.text for record in load_source(source, kind=Text)) for source in TEXTS.values()
        )


def get_config():
    c = default_config()
    c.domain, c.tokenizer.vocab_size = f"{__file__}:Texts", 2048
    c.model.d_model, c.model.num_layers, c.model.d_ff = 128, 3, 256
    c.model.num_heads, c.model.num_kv_heads, c.model.head_dim, c.model.init_std = 4, 2, 32, 0.09
    c.log.every, c.log.checkpoint_every = 50, 1000

    c.pretrain.steps, c.pretrain.batch_size, c.pretrain.length = 300, 8, 128
    c.pretrain.sources.update(TEXTS)
    c.pretrain.weights.update(dict.fromkeys(c.pretrain.sources, 1.0))
    c.pretrain.optimizer.lr, c.pretrain.optimizer.warmup_steps, c.pretrain.optimizer.schedule = 2e-3, 50, "cosine"

    for stage, sets in ((c.sft, SFT), (c.reward, REWARD)):
        for name, (stage.sources[name], stage.heldout[name]) in sets.items():
            stage.weights[name] = 1.0
        stage.steps, stage.batch_size, stage.length, stage.overlong = 200, 8, 192, "cut"
        stage.heldout_every, stage.heldout_limit = 200, 150
        stage.optimizer.lr, stage.optimizer.warmup_steps, stage.optimizer.schedule = 1e-3, 20, "cosine"
    c.reward.normalize_on, c.max_prompt_length, c.max_response_length = 32, 96, 8
    c.ppo.sources.questions, c.ppo.weights.questions = QUESTIONS, 1.0
    return c
