"""What training needs beside models and data: devices, tokenizer, lengths, and a key for each random choice."""

import dataclasses
import zlib

import jax
import numpy as np
from jax.sharding import Mesh

from icegrt_jax.config.options import LengthOptions
from icegrt_jax.data.host_share import Share
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.hosts import sync
from icegrt_jax.sharding import host_rows

# Each random choice of a run has its own stream: the run's key folded with one of these. From a stream are made either
# the numbers of one choice or the keys of the members of one kind, never both: fold_in(key, i) and split(key)[i] are
# the same key.
STREAMS = {
    "base": 0,  # parameters of a model from scratch
    "sft": 1,
    "reward": 2,  # a reward model's new head, or all of it
    "ppo": 3,  # responses of the rollouts, one key for each sequence of the run
    "evaluate": 4,  # answers; every stage's model draws with the same keys, so that they are compared in pairs
    "rankings": 5,  # answers of ICE-Instruct for the simulated annotators
    "normalize": 6,  # answers of ICE-Instruct on which the scores are normalised
    "sample": 7,
    "adapters": 8,  # one key for each trained role, see `ADAPTERS`
    "minibatches": 9,  # their order, one key for each iteration
    "best_of": 10,  # the n answers that ICE-Reward chooses from
    "pretrain": 11,
    "reward_updates": 12,
    "replay": 13,  # order of the replayed data
    "heldout": 14,  # answers to held-out prompts while PPO trains, drawn with the same keys every time
    "rounds": 15,  # answers that are ranked between two rounds, one key for each round
    "more_answers": 16,  # as "evaluate", where there are several to each prompt: one key for each but the first
    "more_best_of": 17,  # as "best_of", likewise
    "temperatures": 18,  # answers that a temperature is chosen by, one key for each to a prompt
    "members": 19,  # heads and adapters of the reward models after the first, see `member_key`
    "reward_check": 20,  # answers to held-out prompts on which the reward model is looked at, the same keys every time
}
ADAPTERS = {"policy": 0, "value": 1, "sft": 2, "reward": 3}  # of the stream "adapters"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """One training. Nothing of it is kept; what has a folder is a `rundir.Run`."""

    mesh: Mesh
    tokenizer: ChatTokenizer
    seed: int
    data_dir: str
    lengths: LengthOptions
    rollout_tensor: int  # of the mesh

    def key(self, stream: str) -> jax.Array:
        """The key of one random choice."""
        return jax.random.fold_in(jax.random.key(self.seed), STREAMS[stream])

    def own_key(self, stage: str) -> jax.Array:
        """The key of a stage that has no stream: by its name."""
        return jax.random.fold_in(jax.random.key(self.seed), np.uint32(2**31 | zlib.crc32(stage.encode())))

    def adapter_key(self, name: str) -> jax.Array:
        """The key of one new adapter: "policy", "value", "sft" or "reward"."""
        return jax.random.fold_in(self.key("adapters"), ADAPTERS[name])

    def member_key(self, number: int, part: str) -> jax.Array:
        """The key of the new "head" (or all of it), or of the new "adapter", of one of several reward models.

        The first, number 0, has the keys of a single one.
        """
        if number == 0:
            return self.key("reward") if part == "head" else self.adapter_key("reward")
        return jax.random.fold_in(jax.random.fold_in(self.key("members"), number), ("head", "adapter").index(part))

    def data_seed(self, stream: str) -> int:
        """The seed of the order of a stage's data: sources of one name in two stages are shuffled differently."""
        return zlib.crc32(f"{self.seed}/{stream}".encode())

    @property
    def share(self) -> Share:
        """What this process does of the data work."""
        rows = lambda size: host_rows.own_rows(self.mesh, size)
        return Share(jax.process_index(), jax.process_count(), rows, sync.exchange)
