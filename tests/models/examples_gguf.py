"""GGUF files as llama.cpp's converter writes them, made here with the `gguf` package."""

import dataclasses
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from icegrt_jax.models.gguf.tensors import NAMES
from icegrt_jax.models.tree import flatten
from tests.models.examples import CONFIG

# Rows of 32, the block of the simpler quantised types.
SHAPE = dataclasses.replace(CONFIG, d_model=32, head_dim=8, d_ff=64, rope_theta=1e5, norm_eps=1e-5)
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<file_sep>"]
CHARACTERS = ["Ġ", "Ċ", *"0123456789abcdefghijklmnopqrstuvwxyz"]
MERGES = ["1 2", "Ġ 1", "a b", "Ġ ab"]
TOKENS = [*CONTROL, *CHARACTERS, "12", "Ġ1", "ab", "Ġab"]
CONFIG_HERE = dataclasses.replace(SHAPE, vocab_size=len(TOKENS))


def interleaved(matrix: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows [heads * H, in] as llama.cpp stores queries and keys: of each head rows 0, H/2, 1, H/2 + 1, …"""
    half = head_dim // 2
    order = [head + j + side for head in range(0, len(matrix), head_dim) for j in range(half) for side in (0, half)]
    return matrix[order]


def start(path, architecture: str, shape: dict[str, Any], **extra) -> gguf.GGUFWriter:
    """A writer with the header of a model and its tokenizer; keys are named as the writer's `add_` methods."""
    writer = gguf.GGUFWriter(path, architecture)
    tokens = extra.pop("tokens", TOKENS)
    header = {
        **shape,
        "tokenizer_model": "gpt2",
        "tokenizer_pre": "smollm",
        "token_list": tokens,
        "token_types": [3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)),
        "token_merges": MERGES,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unk_token_id": 0,
        "pad_token_id": 2,
        "chat_template": TEMPLATE,
        **extra,
    }
    for key, value in header.items():
        if value is not None:
            getattr(writer, f"add_{key}")(value)
    return writer


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf(path, config, params, *, matrices=Type.F32, architecture="llama", **extra):
    """A file of one of our Llamas, the matrices quantised."""
    shape = {
        "block_count": config.num_layers,
        "context_length": config.max_length,
        "embedding_length": config.d_model,
        "feed_forward_length": config.d_ff,
        "head_count": config.num_heads,
        "head_count_kv": config.num_kv_heads,
        "rope_freq_base": config.rope_theta,
        "layer_norm_rms_eps": config.norm_eps,
        "rope_dimension_count": config.head_dim,
        "key_length": config.head_dim,
    }
    writer = start(path, architecture, shape, **extra)
    for ours, leaf in flatten(params).items():
        top, *rest = ours.split("/")
        name = NAMES["/".join([top, *rest[1:]])].format(rest[0]) if top == "layers" else NAMES[ours]
        tensor = np.asarray(leaf).T if ours.endswith("kernel") else np.asarray(leaf)
        if ours.endswith(("q/kernel", "k/kernel")):
            tensor = interleaved(tensor, config.head_dim)
        kind = Type.F32 if tensor.ndim == 1 else matrices
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(tensor), kind), raw_dtype=kind)
    finish(writer)
    return path


ARCHITECTURES = {  # transformers' model_type -> llama.cpp's
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
}


def write_theirs(path, model: Any, **extra):
    """A file of a model of transformers, its tensors named by the `gguf` package's own table."""
    config = model.config
    arch = ARCHITECTURES[config.model_type]
    rope = config.rope_parameters
    full = rope.get("full_attention", rope)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "head_count": config.num_attention_heads,
        "head_count_kv": config.num_key_value_heads,
        "layer_norm_rms_eps": config.rms_norm_eps,
        "key_length": head_dim,
        "value_length": head_dim,
        "rope_freq_base": full["rope_theta"],
        "attn_logit_softcapping": getattr(config, "attn_logit_softcapping", None),
        "final_logit_softcapping": getattr(config, "final_logit_softcapping", None),
        "sliding_window": config.sliding_window if config.model_type in ("gemma2", "gemma3_text") else None,
    }
    if full["rope_type"] == "linear":
        shape |= {"rope_scaling_type": gguf.RopeScalingType.LINEAR, "rope_scaling_factor": full["factor"]}
    tokens = [*TOKENS, *(f"<unused{i}>" for i in range(config.vocab_size - len(TOKENS)))]
    writer = start(path, gguf.MODEL_ARCH_NAMES[arch], shape, tokens=tokens, **extra)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        tensor = tensor.float().numpy()
        if arch == gguf.MODEL_ARCH.LLAMA and name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = interleaved(tensor, head_dim)
        if config.model_type.startswith("gemma") and name.endswith("norm.weight"):
            tensor = tensor + 1
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(tensor))
    if full["rope_type"] == "llama3":
        # Theirs are the frequencies after scaling; the file has what the plain ones were divided by.
        plain = full["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim)
        writer.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32))
    finish(writer)
    return path
