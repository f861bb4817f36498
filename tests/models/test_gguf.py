"""GGUF files, written here with the `gguf` package and read back."""

import dataclasses

import chex
import gguf
import jax
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from icegrt_jax.errors import UserError
from icegrt_jax.models.gguf import NAMES, load_gguf
from tests.models.examples import CONFIG, make_params

# Rows of 32, the block of the quantised types.
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


def write_gguf(path, config, params, *, matrices=Type.F32, pre="smollm", architecture="llama", **extra):
    """A file as llama.cpp's converter would write it."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_length)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(TOKENS) - len(CONTROL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for key, value in extra.items():
        getattr(writer, f"add_{key}")(value)
    for ours, name in NAMES.items():
        top, *rest = ours.split("/")
        if top not in params:
            continue
        for i in params[top] if top == "layers" else [None]:
            leaf = params[top] if i is None else params[top][i]
            for key in rest:
                leaf = leaf[key]
            tensor = np.asarray(leaf).T if ours.endswith("kernel") else np.asarray(leaf)
            if ours.endswith(("q/kernel", "k/kernel")):
                tensor = interleaved(tensor, config.head_dim)
            kind = Type.F32 if tensor.ndim == 1 else matrices
            data = gguf.quants.quantize(np.ascontiguousarray(tensor), kind)
            writer.add_tensor(name.format(i), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_config_and_parameters_survive(file, tie_embeddings):
    config = dataclasses.replace(CONFIG_HERE, tie_embeddings=tie_embeddings)
    params = make_params(config)
    loaded_config, loaded, _ = load_gguf(write_gguf(file, config, params))
    assert loaded_config == config
    chex.assert_trees_all_equal(loaded, jax.tree.map(np.asarray, params))


@pytest.mark.parametrize(
    "matrices, steps",  # of the grid between a block's smallest and largest value, or the mantissa's
    [(Type.F16, 2**11), (Type.BF16, 2**8), (Type.Q8_0, 254), (Type.Q4_1, 15), (Type.Q4_0, 15)],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_value_is_within_one_step_of_its_quantised_grid(file, matrices, steps):
    params = make_params(CONFIG_HERE)
    _, loaded, _ = load_gguf(write_gguf(file, CONFIG_HERE, params, matrices=matrices))
    widest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(params))
    for got, expected in zip(jax.tree.leaves(loaded), jax.tree.leaves(params)):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=2 * widest / steps)
    assert not np.array_equal(loaded["embed"]["embedding"], params["embed"]["embedding"])


def test_digits_are_split_one_by_one_and_other_text_is_merged(file):
    params = make_params(CONFIG_HERE)
    _, _, tokenizer = load_gguf(write_gguf(file, CONFIG_HERE, params))
    pieces = lambda text: tokenizer.tokenizer.convert_ids_to_tokens(tokenizer.encode_text(text))
    assert pieces("ab 12 ab12") == ["ab", "Ġ", "1", "2", "Ġab", "1", "2"]
    assert tokenizer.decode(tokenizer.encode_text("ab 12 ab12")) == "ab 12 ab12"
    _, _, other = load_gguf(write_gguf(file, CONFIG_HERE, params, pre="gpt-2"))
    assert other.tokenizer.convert_ids_to_tokens(other.encode_text("ab 12")) == ["ab", "Ġ", "12"]


def test_special_tokens_and_chat_template_are_those_of_the_file(file):
    _, _, tokenizer = load_gguf(write_gguf(file, CONFIG_HERE, make_params(CONFIG_HERE)))
    wrapped = tokenizer.tokenizer
    assert (wrapped.bos_token, wrapped.eos_token, wrapped.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert wrapped.chat_template == TEMPLATE
    assert tokenizer.eos_ids == (2,)
    assert tokenizer.pad_id == 0  # PAD is EOS in the file
    ids = tokenizer.encode_prompt([{"role": "user", "content": "ab"}])
    assert wrapped.convert_ids_to_tokens(ids) == [
        *("<|im_start|>", *"user", "Ċ", "ab", "<|im_end|>", "Ċ"),
        *("<|im_start|>", *"assistant", "Ċ"),
    ]
    assert wrapped("<file_sep>", add_special_tokens=False)["input_ids"] == [3]


@pytest.mark.parametrize("add_bos_token", [True, False])
def test_bos_is_put_in_front_where_the_file_says_so(file, add_bos_token):
    written = write_gguf(file, CONFIG_HERE, make_params(CONFIG_HERE), add_bos_token=add_bos_token)
    _, _, tokenizer = load_gguf(written)
    assert tokenizer.tokenizer("ab")["input_ids"] == [1] * add_bos_token + tokenizer.encode_text("ab")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"architecture": "qwen2"}, "'qwen2' is not supported"),
        ({"pre": "llama-bpe"}, "pre-tokenizer 'llama-bpe' is not supported"),
        ({"rope_scaling_type": gguf.RopeScalingType.LINEAR}, "scaled rotary embedding"),
        ({"expert_count": 4}, "mixture of experts"),
    ],
)
def test_what_is_not_a_plain_llama_is_refused(file, options, message):
    with pytest.raises(UserError, match=message):
        load_gguf(write_gguf(file, CONFIG_HERE, make_params(CONFIG_HERE), **options))


def test_missing_unexpected_and_misshapen_tensors_are_named(file):
    params = make_params(CONFIG_HERE)
    fewer = {name: params[name] for name in params if name != "final_norm"}
    with pytest.raises(UserError, match=r"output_norm\.weight is missing"):
        load_gguf(write_gguf(file, CONFIG_HERE, fewer))
    narrower = dataclasses.replace(CONFIG_HERE, d_ff=32)
    with pytest.raises(UserError, match=r"blk\.0\.ffn_\w+\.weight has shape"):
        load_gguf(write_gguf(file, narrower, params))
    shallow = dataclasses.replace(CONFIG_HERE, num_layers=1)
    with pytest.raises(UserError, match=r"unexpected tensor\(s\), first blk\.1\."):
        load_gguf(write_gguf(file, shallow, params))


def test_an_absent_foreign_or_truncated_file_is_refused(file):
    with pytest.raises(UserError, match="no such file"):
        load_gguf(file)
    file.write_bytes(b"not a model" * 100)
    with pytest.raises(UserError, match="cannot be read as GGUF"):
        load_gguf(file)
    write_gguf(file, CONFIG_HERE, make_params(CONFIG_HERE))
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(UserError, match="cannot be read as GGUF"):
        load_gguf(file)
