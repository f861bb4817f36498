"""A tiny model from scratch on texts that large.py writes: not for itself, only to see what memory its data take."""

from icegrt_jax.config import default_config
from icegrt_jax.data.records import Text
from icegrt_jax.data.sources import load_source
from icegrt_jax.domains import Domain

WORDS = (  # that the tokenizer is trained on
    "jsonl:instruct/dolly_hhrlhf/train.jsonl?text=output",
    "jsonl:domain/liar_plus/train_from_val2.jsonl?text=justification",
    "jsonl:domain/sms_spam/train.jsonl",
)


class Words(Domain):
    """Nothing is made, the tokenizer is trained on texts as they lie."""

    sets = {"none": Text}

    def records(self, name, size, seed):
        return []

    def tokenizer(self, sizes, seed):
        return (record.text for source in WORDS for record in load_source(source, kind=Text))


def get_config(switch=""):
    c = default_config()
    c.domain, c.tokenizer.vocab_size = f"{__file__}:Words", 1024
    c.model.d_model, c.model.num_layers, c.model.d_ff = 64, 1, 128
    c.model.num_heads, c.model.num_kv_heads, c.model.head_dim, c.model.init_std = 2, 1, 32, 0.09
    c.log.every, c.log.checkpoint_every = 50, 10_000
    c.pretrain.steps, c.pretrain.batch_size, c.pretrain.length = 300, 1, 512
    c.pretrain.sources.large, c.pretrain.weights.large = "jsonl:large.jsonl", 1.0
    c.pretrain.optimizer.lr, c.pretrain.optimizer.warmup_steps, c.pretrain.optimizer.schedule = 2e-3, 50, "cosine"
    return c
