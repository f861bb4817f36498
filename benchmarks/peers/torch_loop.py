"""Supervised training as a bare torch loop: the model of transformers, its loss, AdamW, nothing else."""

import time

import torch

from benchmarks.cases import random_tokens
from benchmarks.peers.transformers_generate import load


def sft(turns, *, model: dict, rows: int, length: int, device: str = "cpu") -> None:
    network = load({**model, "dtype": "float32"}, device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)
    ids = torch.tensor(random_tokens(model["shape"]["vocab_size"], rows, length), dtype=torch.long, device=device)
    dtype = getattr(torch, model["dtype"])
    while turns.wait():
        began = time.perf_counter()
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss = network(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss = loss.item()
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
        turns.done({"update": time.perf_counter() - began}, peak=peak, loss=loss)
