"""`generate` of transformers: dynamic cache, static cache, static cache with torch.compile."""

import time

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from benchmarks.cases import random_tokens


def load(model: dict, device: str):
    """A `cases.Model` as transformers has it."""
    dtype = getattr(torch, model["dtype"])
    if model["path"]:
        return AutoModelForCausalLM.from_pretrained(model["path"], dtype=dtype).to(device).eval()
    shape = model["shape"]
    config = LlamaConfig(
        vocab_size=shape["vocab_size"], hidden_size=shape["d_model"], num_hidden_layers=shape["num_layers"],
        num_attention_heads=shape["num_heads"], num_key_value_heads=shape["num_kv_heads"], head_dim=shape["head_dim"],
        intermediate_size=shape["d_ff"], tie_word_embeddings=True, dtype=dtype,
        rope_parameters={"rope_type": "default", "rope_theta": model["rope_theta"]},
    )  # fmt: skip
    with torch.device(device):
        return LlamaForCausalLM(config).to(dtype).eval()


def sample(turns, *, model: dict, batch: int, prompt: int, new: int, mode: str, device: str = "cpu") -> None:
    """Sampling at temperature 1 to a fixed length. mode: dynamic, static, or compiled (static, torch.compile)."""
    torch.manual_seed(0)
    network = load(model, device)
    network.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=None, bos_token_id=1)
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": new}
    options["disable_compile"] = True  # else by device; here the mode says it
    if mode != "dynamic":
        options["cache_implementation"] = "static"
    if mode == "compiled":
        network.forward = torch.compile(network.forward)
    ids = torch.tensor(random_tokens(model["shape"]["vocab_size"], batch, prompt), dtype=torch.long, device=device)
    mask = torch.ones_like(ids)
    while turns.wait():
        began = time.perf_counter()
        with torch.inference_mode():
            out = network.generate(input_ids=ids, attention_mask=mask, **options)
        assert out.shape == (batch, prompt + new), out.shape
        out.cpu()  # waits for an accelerator
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
        turns.done({"generate": time.perf_counter() - began}, peak=peak)
