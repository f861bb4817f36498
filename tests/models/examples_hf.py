"""Tiny random models of each family, made by transformers, in which every part matters."""

from typing import Any

import numpy as np
import pytest

LENGTH = 12  # tokens of the longest row; longer than the windows
SHAPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "rms_norm_eps": 1e-4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "num_labels": 1,
    "attn_implementation": "eager",
}
THETA = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
# Wavelengths go from 6 to 1500 tokens: some are kept, some blended, some slowed down.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
MIXED = ["sliding_attention", "full_attention"]
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
# Name of the case -> classes' prefix, classifier's prefix and config.
CASES: dict[str, tuple[str, str, dict]] = {
    "llama2": ("Llama", "Llama", {**THETA, "tie_word_embeddings": False}),
    "llama3.2": ("Llama", "Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-linear": ("Llama", "Llama", {"rope_parameters": LINEAR}),
    "qwen2": ("Qwen2", "Qwen2", {**THETA, "tie_word_embeddings": True}),
    "qwen2-window": (
        "Qwen2",
        "Qwen2",
        {**THETA, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", "Qwen3", {**THETA, "tie_word_embeddings": False}),
    "mistral": ("Mistral", "Mistral", {**THETA, "sliding_window": 4}),
    "mistral-full": ("Mistral", "Mistral", {**THETA, "sliding_window": None}),
    "gemma": ("Gemma", "Gemma", THETA),
    "gemma2": (
        "Gemma2",
        "Gemma2",
        {
            **THETA,
            "query_pre_attn_scalar": 5,
            "sliding_window": 4,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "Gemma3",
        "Gemma3Text",
        {"rope_parameters": GEMMA3_ROPE, "query_pre_attn_scalar": 5, "sliding_window": 4, "layer_types": MIXED},
    ),
}
each_family = pytest.mark.parametrize("case", CASES)


def make_theirs(case: str, *, scalar: bool = False) -> Any:
    """A model of transformers, its weights random, norms and biases included, and large enough to matter."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    language, classifier, changes = CASES[case]
    cls = f"{classifier}ForSequenceClassification" if scalar else f"{language}ForCausalLM"
    config_class = "Gemma3TextConfig" if language == "Gemma3" else f"{language}Config"
    changes = {k: dict(v) if isinstance(v, dict) else v for k, v in {**SHAPE, **changes}.items()}
    torch.manual_seed(0)
    model = getattr(transformers, cls)(getattr(transformers, config_class)(**changes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model


def padded_batch(side: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, mask and positions of three rows of 12, 9 and 2 tokens; 0 is padding only."""
    tokens = np.random.default_rng(7).integers(1, SHAPE["vocab_size"], (3, LENGTH))
    mask = np.arange(LENGTH)[None, :] < np.array([[LENGTH], [9], [2]])
    if side == "left":
        mask = mask[:, ::-1].copy()
    return np.where(mask, tokens, 0), mask, np.maximum(mask.cumsum(-1) - 1, 0)


def their_logits(model: Any, tokens: np.ndarray, mask: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """f32[B, L, V] of a language model, f32[B, 1] of a classifier."""
    torch = pytest.importorskip("torch")
    inputs = {"attention_mask": torch.tensor(mask.astype(np.int64)), "position_ids": torch.tensor(positions)}
    with torch.no_grad():
        return model(torch.tensor(tokens), **inputs).logits.numpy()


def relative(got, expected) -> float:
    """The largest difference over the largest value."""
    return float(np.abs(np.asarray(got) - expected).max() / np.abs(expected).max())
