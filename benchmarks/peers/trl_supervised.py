"""TRL's SFTTrainer and RewardTrainer on full-length rows."""

import datasets
import torch
from transformers import AutoModelForCausalLM
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from benchmarks.cases import random_tokens
from benchmarks.peers.trl_parts import STEPS, OneStepPerTurn, common_options, id_tokenizer, scalar_model


def _phases(total: float) -> tuple[dict, dict]:
    return {"update": total}, {}


def sft(turns, *, model: dict, rows: int, length: int) -> None:
    vocab_size = model["shape"]["vocab_size"]
    network = AutoModelForCausalLM.from_pretrained(model["path"], dtype=torch.float32)
    data = datasets.Dataset.from_dict({"input_ids": random_tokens(vocab_size, rows, length).tolist()})
    options = SFTConfig(**common_options(), per_device_train_batch_size=rows, max_steps=STEPS, max_length=length)
    SFTTrainer(
        model=network, args=options, train_dataset=data, processing_class=id_tokenizer(vocab_size),
        callbacks=[OneStepPerTurn(turns, _phases)],
    ).train()  # fmt: skip


def reward(turns, *, model: dict, rows: int, length: int) -> None:
    """rows: twice the number of pairs."""
    vocab_size = model["shape"]["vocab_size"]
    tokens = random_tokens(vocab_size, rows, length).tolist()
    data = datasets.Dataset.from_dict({"chosen_ids": tokens[::2], "rejected_ids": tokens[1::2]})
    options = RewardConfig(
        **common_options(), per_device_train_batch_size=rows // 2, max_steps=STEPS, max_length=length
    )
    RewardTrainer(
        model=scalar_model(model["path"]), args=options, train_dataset=data, processing_class=id_tokenizer(vocab_size),
        callbacks=[OneStepPerTurn(turns, _phases)],
    ).train()  # fmt: skip
