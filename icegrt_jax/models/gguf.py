"""A llama.cpp model file (GGUF) read into a config, float32 parameters and a Hugging Face tokenizer.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Weights are dequantised; the tokenizer
is rebuilt from the vocabulary, merges and pre-tokenizer that the file names.
"""

import pathlib
from typing import Any

import gguf
import jax
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from icegrt_jax.data.tokenizers import ChatTokenizer, wrap
from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.hf import abstract_params
from icegrt_jax.models.tree import map_with_path

# Our path -> their name. Their matrices are [out, in], as in Hugging Face's.
NAMES = {
    "embed/embedding": "token_embd.weight",
    "layers/attn_norm/scale": "blk.{}.attn_norm.weight",
    "layers/attn/q/kernel": "blk.{}.attn_q.weight",
    "layers/attn/k/kernel": "blk.{}.attn_k.weight",
    "layers/attn/v/kernel": "blk.{}.attn_v.weight",
    "layers/attn/o/kernel": "blk.{}.attn_output.weight",
    "layers/mlp_norm/scale": "blk.{}.ffn_norm.weight",
    "layers/mlp/gate/kernel": "blk.{}.ffn_gate.weight",
    "layers/mlp/up/kernel": "blk.{}.ffn_up.weight",
    "layers/mlp/down/kernel": "blk.{}.ffn_down.weight",
    "final_norm/scale": "output_norm.weight",
    "lm_head/kernel": "output.weight",
}
CONTROL, USER_DEFINED = 3, 4  # tokenizer.ggml.token_type
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def load_gguf(path: str | pathlib.Path) -> tuple[ModelConfig, dict, ChatTokenizer]:
    """The config, parameters (NumPy, float32) and tokenizer of a GGUF file of the llama architecture."""
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a GGUF model.")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as GGUF ({error}); fetch it again.") from error
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = read_config(path, fields, tensors)
    return config, read_params(path, config, tensors), read_tokenizer(path, fields)


def read_config(path: pathlib.Path, fields: dict[str, Any], tensors: dict[str, gguf.ReaderTensor]) -> ModelConfig:
    """The shape of the model, after checking that we compute it exactly."""
    if fields["general.architecture"] != "llama":
        raise UserError(f"{path}: architecture {fields['general.architecture']!r} is not supported; expected 'llama'.")
    get = lambda key, default=None: fields.get(f"llama.{key}", default)
    num_heads, width = get("attention.head_count"), get("embedding_length")
    config = ModelConfig(
        vocab_size=int(tensors["token_embd.weight"].shape[1]),  # their shapes start with the fastest axis
        d_model=width,
        num_layers=get("block_count"),
        num_heads=num_heads,
        num_kv_heads=get("attention.head_count_kv", num_heads),
        head_dim=get("attention.key_length", width // num_heads),
        d_ff=get("feed_forward_length"),
        rope_theta=as_written(get("rope.freq_base", 10000.0)),
        norm_eps=as_written(get("attention.layer_norm_rms_epsilon")),
        tie_embeddings="output.weight" not in tensors,
        max_length=get("context_length"),
    )
    unsupported = {
        "scaled rotary embedding": get("rope.scaling.type", "none") != "none" or "rope_freqs.weight" in tensors,
        "partial rotary embedding": get("rope.dimension_count", config.head_dim) != config.head_dim,
        "mixture of experts": get("expert_count", 0) > 0,
    }
    for feature, present in unsupported.items():
        if present:
            raise UserError(f"{path}: the model has a {feature}, which is not supported.")
    return config


def as_written(number: float) -> float:
    """1e-05 for the stored float32 9.999999747378752e-06."""
    return float(str(np.float32(number)))


def read_params(path: pathlib.Path, config: ModelConfig, tensors: dict[str, gguf.ReaderTensor]) -> dict:
    """The parameter tree, dequantised to float32."""
    used = set()

    def load(ours: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = name_of(ours)
        if name not in tensors:
            raise UserError(f"{path}: the tensor {name} is missing.")
        used.add(name)
        tensor = gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type)
        if ours.endswith(("attn/q/kernel", "attn/k/kernel")):
            tensor = split_halves(tensor, config.head_dim)
        tensor = np.ascontiguousarray(tensor.T if ours.endswith("kernel") else tensor, np.float32)
        if tensor.shape != leaf.shape:
            raise UserError(f"{path}: {name} has shape {tensor.shape}; by the header it should be {leaf.shape}.")
        return tensor

    params = map_with_path(load, abstract_params(config))
    if unexpected := tensors.keys() - used:
        raise UserError(f"{path}: {len(unexpected)} unexpected tensor(s), first {min(unexpected)}; not a plain Llama.")
    return params


def name_of(ours: str) -> str:
    """Their name of our leaf, such as blk.3.attn_q.weight of layers/3/attn/q/kernel."""
    if not ours.startswith("layers/"):
        return NAMES[ours]
    _, layer, rest = ours.split("/", 2)
    return NAMES[f"layers/{rest}"].format(layer)


def split_halves(matrix: np.ndarray, head_dim: int) -> np.ndarray:
    """Undoes llama.cpp's reordering of the query and key rows [heads * H, in].

    It interleaves the two halves of each head for its own rotary embedding (`permute` in its
    convert_hf_to_gguf.py); ours rotates halves, as Hugging Face's does.
    """
    return matrix.reshape(-1, head_dim // 2, 2, matrix.shape[-1]).swapaxes(1, 2).reshape(matrix.shape)


def byte_level_bpe_splits() -> dict[str, pre_tokenizers.PreTokenizer]:
    """How text is cut before BPE, by the file's tokenizer.ggml.pre."""
    byte_level = lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    # smollm: each digit by itself first; without that, numbers get other ids than in training.
    return {"gpt-2": byte_level(), "smollm": pre_tokenizers.Sequence([digits, byte_level()])}


def read_tokenizer(path: pathlib.Path, fields: dict[str, Any]) -> ChatTokenizer:
    """The tokenizer, with its special tokens and chat template."""
    get = lambda key, default=None: fields.get(f"tokenizer.ggml.{key}", default)
    splits = byte_level_bpe_splits()
    if get("model") != "gpt2" or get("pre") not in splits:
        raise UserError(
            f"{path}: tokenizer {get('model')!r} with pre-tokenizer {get('pre')!r} is not supported; "
            f"expected 'gpt2' with one of {', '.join(splits)}."
        )
    tokens, types = get("tokens"), get("token_type")
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in get("merges")]
    bpe = Tokenizer(models.BPE(vocab, merges))
    bpe.pre_tokenizer = splits[get("pre")]
    bpe.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, types) if kind == CONTROL]
    bpe.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    defined = [token for token, kind in zip(tokens, types) if kind == USER_DEFINED]
    bpe.add_tokens([AddedToken(token, normalized=False) for token in defined])
    special = {ours: tokens[i] for ours, name in SPECIAL.items() if (i := get(f"{name}_token_id")) is not None}
    if get("add_bos_token", False):
        bos = special["bos_token"]
        bpe.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, vocab[bos])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        extra_special_tokens=[token for token in control if token not in special.values()],
        chat_template=fields.get("tokenizer.chat_template"),
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
        **special,
    )
    return wrap(tokenizer, name=str(path))
