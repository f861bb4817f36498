"""GGUF files, written here with the `gguf` package and read back."""

import dataclasses

import chex
import gguf
import jax
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from icegrt_jax.api import load_model
from icegrt_jax.errors import UserError
from icegrt_jax.models import transformer
from icegrt_jax.models.api import save_model
from icegrt_jax.models.gguf.config import llama3_scaling, read_config
from icegrt_jax.models.gguf.file import load_gguf
from icegrt_jax.models.gguf.tensors import TYPES
from icegrt_jax.models.heads import unembed
from icegrt_jax.models.hf.folder import load_hf
from icegrt_jax.models.tree import map_with_path
from tests.models.examples import make_params, stacked
from tests.models.examples_gguf import CONFIG_HERE, TEMPLATE, finish, interleaved, start, write_gguf, write_theirs
from tests.models.examples_hf import CASES, make_theirs, padded_batch, relative, their_logits

hidden_states = jax.jit(transformer.hidden_states, static_argnames="config")


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


def test_load_model_takes_a_file_and_what_it_gives_can_be_saved_as_a_folder(file, tmp_path):
    params = make_params(CONFIG_HERE)
    model = load_model(write_gguf(file, CONFIG_HERE, params))
    save_model(model, tmp_path / "folder")
    again = load_model(tmp_path / "folder")
    assert again.config == CONFIG_HERE
    chex.assert_trees_all_equal(again.params, params)
    chat = [{"role": "user", "content": "ab 12"}]
    assert again.tokenizer.encode_prompt(chat) == model.tokenizer.encode_prompt(chat)


def test_more_ids_than_rows_are_refused(file):
    fewer = dataclasses.replace(CONFIG_HERE, vocab_size=CONFIG_HERE.vocab_size - 1)
    with pytest.raises(UserError, match=r"the tokenizer has \d+ ids, the embedding \d+ rows"):
        load_gguf(write_gguf(file, fewer, make_params(fewer)))


def test_layers_are_stacked_cast_and_sharded_as_they_are_read(file):
    params = make_params(CONFIG_HERE)
    write_gguf(file, CONFIG_HERE, params)
    config, expected = stacked(CONFIG_HERE, params)
    mesh = jax.make_mesh((2, 4), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)

    def sharding(path, leaf):
        return NamedSharding(mesh, P(*[None] * (leaf.ndim - 2), "fsdp", "tensor") if "kernel" in path else P())

    loaded_config, loaded, _ = load_gguf(
        file, scan_layers=True, param_dtype="bfloat16", shardings=lambda tree: map_with_path(sharding, tree)
    )
    assert loaded_config == config
    chex.assert_trees_all_equal(loaded, jax.tree.map(lambda x: x.astype("bfloat16"), expected))
    assert loaded["layers"]["mlp"]["up"]["kernel"].sharding.spec == P(None, "fsdp", "tensor")


# Every type against its definition in float64


def blocks(data: np.ndarray, size: int) -> np.ndarray:
    """Bytes [rows * blocks, size]."""
    return np.ascontiguousarray(data).view(np.uint8).reshape(-1, size)


def half(block: np.ndarray) -> np.ndarray:
    """The two bytes at the start of each block as a number, f64[blocks, 1]."""
    return np.ascontiguousarray(block[:, :2]).view(np.float16).astype(np.float64)


def nibbles(block: np.ndarray) -> np.ndarray:
    """First the low halves of all bytes, then the high ones."""
    return np.concatenate([block & 15, block >> 4], axis=1).astype(np.float64)


def q4_k(data: np.ndarray) -> np.ndarray:
    """256 weights: d, dmin, eight scales and minima of 6 bits in 12 bytes, and 128 bytes of nibbles."""
    block = blocks(data, 144)
    d, dmin, packed, quants = half(block), half(block[:, 2:]), block[:, 4:16], block[:, 16:]
    out = []
    for j in range(8):
        if j < 4:
            scale, minimum = packed[:, j] & 63, packed[:, j + 4] & 63
        else:
            scale = (packed[:, j + 4] & 15) | ((packed[:, j - 4] >> 6) << 4)
            minimum = (packed[:, j + 4] >> 4) | ((packed[:, j] >> 6) << 4)
        bytes_ = quants[:, 32 * (j // 2) : 32 * (j // 2 + 1)]
        out.append(d * scale[:, None] * (bytes_ >> 4 * (j % 2) & 15) - dmin * minimum[:, None])
    return np.concatenate(out, axis=1)


def q6_k(data: np.ndarray) -> np.ndarray:
    """256 weights: their 4 low bits, their 2 high bits, sixteen signed scales, d."""
    block = blocks(data, 210)
    scales, d = block[:, 192:208].view(np.int8).astype(np.float64), half(block[:, 208:])
    out = np.zeros((len(block), 256))
    for i in range(256):
        part, lane, place = i // 128, i % 128 // 32, i % 32  # of 128 weights, of 32 in it
        low = block[:, 64 * part + 32 * (lane % 2) + place] >> 4 * (lane // 2) & 15
        high = block[:, 128 + 32 * part + place] >> 2 * lane & 3
        out[:, i] = d[:, 0] * scales[:, i // 16] * ((low | high << 4).astype(np.float64) - 32)
    return out


REFERENCES = {
    Type.F32: lambda data: data.astype(np.float64),
    Type.F16: lambda data: data.astype(np.float64),
    Type.BF16: lambda data: (blocks(data, 2).view(np.uint16).astype(np.uint32) << 16).view(np.float32),
    Type.Q8_0: lambda data: half(blocks(data, 34)) * blocks(data, 34)[:, 2:].view(np.int8),
    Type.Q4_0: lambda data: half(blocks(data, 18)) * (nibbles(blocks(data, 18)[:, 2:]) - 8),
    Type.Q4_1: lambda data: half(blocks(data, 20)) * nibbles(blocks(data, 20)[:, 4:]) + half(blocks(data, 20)[:, 2:]),
    Type.Q4_K: q4_k,
    Type.Q6_K: q6_k,
}


def make_blocks(kind: Type, weights: np.ndarray, rng) -> np.ndarray:
    """The weights quantised, or any blocks of a type that the package only reads."""
    if kind not in (Type.Q4_K, Type.Q6_K):
        return gguf.quants.quantize(weights, kind)
    size = {Type.Q4_K: 144, Type.Q6_K: 210}[kind]
    block = rng.integers(0, 256, (weights.size // 256, size), np.uint8)
    for place in (0, 2) if kind == Type.Q4_K else (208,):
        block[:, place : place + 2] = rng.uniform(0.01, 0.1, (len(block), 1)).astype(np.float16).view(np.uint8)
    return block.reshape(len(weights), -1)


def test_every_supported_type_has_a_reference():
    assert set(REFERENCES) == set(TYPES)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_a_type_is_dequantised_as_it_is_defined(file, kind):
    wide = dataclasses.replace(CONFIG_HERE, d_model=256, d_ff=512, head_dim=64, num_layers=1)
    params, rng = make_params(wide), np.random.default_rng(0)
    write_gguf(file, wide, params)
    reader = gguf.GGUFReader(file)
    written = file.with_name("quantised.gguf")
    shape = {
        "block_count": 1, "context_length": wide.max_length, "embedding_length": 256, "feed_forward_length": 512,
        "head_count": 4, "head_count_kv": 2, "rope_freq_base": wide.rope_theta, "layer_norm_rms_eps": wide.norm_eps,
        "key_length": 64,
    }  # fmt: skip
    writer, raw = start(written, "llama", shape), {}
    for tensor in reader.tensors:
        matrix = tensor.data.ndim == 2
        raw[tensor.name] = make_blocks(kind, np.array(tensor.data), rng) if matrix else np.array(tensor.data)
        writer.add_tensor(tensor.name, raw[tensor.name], raw_dtype=kind if matrix else Type.F32)
    finish(writer)
    _, loaded, _ = load_gguf(written)
    expected = {name: REFERENCES[kind](data).reshape(len(data), -1) for name, data in raw.items() if data.ndim == 2}
    layer = loaded["layers"]["0"]
    np.testing.assert_allclose(layer["mlp"]["up"]["kernel"].T, expected["blk.0.ffn_up.weight"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(loaded["embed"]["embedding"], expected["token_embd.weight"], rtol=1e-6, atol=1e-7)
    query = interleaved(np.asarray(layer["attn"]["q"]["kernel"]).T, 64)
    np.testing.assert_allclose(query, expected["blk.0.attn_q.weight"], rtol=1e-6, atol=1e-7)
    if kind not in (Type.Q4_K, Type.Q6_K):  # and it is near what was quantised
        steps = {Type.F32: np.inf, Type.F16: 2**11, Type.BF16: 2**8, Type.Q8_0: 254}.get(kind, 15)
        original = np.asarray(params["layers"]["0"]["mlp"]["up"]["kernel"])
        np.testing.assert_allclose(layer["mlp"]["up"]["kernel"], original, atol=2 * np.abs(original).max() / steps)


def test_another_type_is_named_with_its_tensor(file):
    params = make_params(CONFIG_HERE)
    with pytest.raises(UserError, match=r"token_embd\.weight is stored as Q5_0; expected one of F32, F16, BF16, Q8_0"):
        load_gguf(write_gguf(file, CONFIG_HERE, params, matrices=Type.Q5_0))


# Every architecture against transformers

OVERRIDES = {
    # llama.cpp has no key for it.
    "gemma2": {"query_pre_attn_scalar": 12},
    "gemma3": {"query_pre_attn_scalar": 12},
}
EXTRA = {"gemma3": {"rope_freq_base_swa": 100.0, "sliding_window_pattern": [True, False]}}


@pytest.mark.parametrize("case", [
    "llama2", "llama3.2", "llama-linear", "mistral-full", "qwen2", "qwen3", "gemma", "gemma2", "gemma3",
])  # fmt: skip
def test_logits_are_those_of_the_model_in_transformers(tmp_path, monkeypatch, case):
    language, classifier, changes = CASES[case]
    monkeypatch.setitem(CASES, case, (language, classifier, {**changes, **OVERRIDES.get(case, {})}))
    theirs = make_theirs(case)
    config, params, tokenizer = load_gguf(write_theirs(tmp_path / "model.gguf", theirs, **EXTRA.get(case, {})))
    assert tokenizer.vocab_size == config.vocab_size
    for side in ("left", "right"):
        tokens, mask, positions = padded_batch(side)
        expected = their_logits(theirs, tokens, mask, positions)
        got = unembed(params, config, hidden_states(params, config, tokens, mask))
        assert relative(got[mask], expected[mask]) <= 1e-5
    theirs.save_pretrained(tmp_path / "folder")
    folder_config = load_hf(tmp_path / "folder")[0]
    family = "llama" if case == "mistral-full" else folder_config.family  # a Mistral is a llama to llama.cpp
    assert config == dataclasses.replace(folder_config, family=family)


def header(architecture, layers, **more):
    values = {"attention.head_count": 4, "embedding_length": 64, "block_count": layers, "feed_forward_length": 96,
              "attention.layer_norm_rms_epsilon": 1e-6, "context_length": 512, "attention.key_length": 32,
              **more}  # fmt: skip
    return {"general.architecture": architecture, **{f"{architecture}.{key}": x for key, x in values.items()}}


def config_of(tmp_path, *args, **more):
    shapes = {"token_embd.weight": [50, 64]}
    return read_config(tmp_path, header(*args, **more), shapes, None, scan_layers=False, dtype="float32")


def test_what_the_largest_gemmas_have_in_no_key_is_known_by_their_depth(tmp_path):
    for architecture, layers in (("gemma2", 46), ("gemma3", 62)):
        assert config_of(tmp_path, architecture, layers).query_pre_attn_scalar == 16
        assert config_of(tmp_path, architecture, layers - 1).query_pre_attn_scalar == 0


def test_gemma_s_windows_alternate_where_no_key_says_how(tmp_path):
    assert config_of(tmp_path, "gemma2", 3).layer_windows == (4096, 0, 4096)
    assert config_of(tmp_path, "gemma3", 7, **{"attention.sliding_window": 9}).layer_windows == (9,) * 5 + (0, 9)
    assert config_of(tmp_path, "gemma3", 7).layer_windows == ()
    pattern = {"attention.sliding_window": 9, "attention.sliding_window_pattern": 2}
    assert config_of(tmp_path, "gemma3", 3, **pattern).layer_windows == (9, 0, 9)
    assert (config_of(tmp_path, "gemma2", 3).attn_softcap, config_of(tmp_path, "gemma2", 3).final_softcap) == (50, 30)


@pytest.mark.parametrize("factor, length", [(8.0, 8192), (32.0, 8192), (16.0, 4096)])
def test_llama_3_s_scaling_is_found_from_its_result(tmp_path, factor, length):
    frequencies = 500000.0 ** (-np.arange(0, 128, 2) / 128)
    wavelength = 2 * np.pi / frequencies
    smooth = (length / wavelength - 1) / 3
    factors = np.where(wavelength < length / 4, 1, np.where(wavelength > length, factor,
                       1 / ((1 - smooth) / factor + smooth)))  # fmt: skip
    found = llama3_scaling(tmp_path, factors.astype(np.float32).astype(np.float64), 500000.0, 128)
    assert (found["rope_factor"], found["rope_original_length"]) == (factor, length)
    with pytest.raises(UserError, match="rope_freqs.weight is not the rotary scaling of a Llama 3"):
        llama3_scaling(tmp_path, factors**2, 500000.0, 128)


# Tokenizers: those of byte-level BPE here, the others in test_gguf_tokenizer.py


def test_digits_are_split_one_by_one_and_other_text_is_merged(file):
    params = make_params(CONFIG_HERE)
    _, _, tokenizer = load_gguf(write_gguf(file, CONFIG_HERE, params))
    pieces = lambda text: tokenizer.tokenizer.convert_ids_to_tokens(tokenizer.encode_text(text))
    assert pieces("ab 12 ab12") == ["ab", "Ġ", "1", "2", "Ġab", "1", "2"]
    assert tokenizer.decode(tokenizer.encode_text("ab 12 ab12")) == "ab 12 ab12"
    _, _, other = load_gguf(write_gguf(file, CONFIG_HERE, params, tokenizer_pre="gpt-2"))
    assert other.tokenizer.convert_ids_to_tokens(other.encode_text("ab 12")) == ["ab", "Ġ", "12"]


def test_special_tokens_and_chat_template_are_those_of_the_file(file):
    _, _, tokenizer = load_gguf(write_gguf(file, CONFIG_HERE, make_params(CONFIG_HERE)))
    wrapped = tokenizer.tokenizer
    assert (wrapped.bos_token, wrapped.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert wrapped.chat_template == TEMPLATE
    assert tokenizer.eos_ids == (2, 0), "<|endoftext|> by its name, as in llama.cpp"
    assert (wrapped.pad_token, tokenizer.pad_id) == ("<file_sep>", 3), "PAD is EOS in the file"
    ids = tokenizer.encode_prompt([{"role": "user", "content": "ab"}])
    assert wrapped.convert_ids_to_tokens(ids) == [
        *("<|im_start|>", *"user", "Ċ", "ab", "<|im_end|>", "Ċ"),
        *("<|im_start|>", *"assistant", "Ċ"),
    ]
    assert wrapped("<file_sep>", add_special_tokens=False)["input_ids"] == [3]


def test_a_file_ends_answers_with_the_ids_of_text_turn_and_message(file, tmp_path):
    names = {"eos_token_id": 3, "eot_token_id": 2, "eom_token_id": 5}
    model = load_model(write_gguf(file, CONFIG_HERE, make_params(CONFIG_HERE), **names))
    assert model.tokenizer.eos_ids == (2, 3, 5, 0)
    save_model(model, tmp_path / "folder")
    assert load_model(tmp_path / "folder").tokenizer.eos_ids == (2, 3, 5, 0)


@pytest.mark.parametrize("add_bos_token", [True, False])
def test_bos_is_put_in_front_where_the_file_says_so(file, add_bos_token):
    written = write_gguf(file, CONFIG_HERE, make_params(CONFIG_HERE), add_bos_token=add_bos_token)
    _, _, tokenizer = load_gguf(written)
    assert tokenizer.tokenizer("ab")["input_ids"] == [1] * add_bos_token + tokenizer.encode_text("ab")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"architecture": "phi3"}, "architecture 'phi3' is not supported; expected one of llama, qwen2"),
        ({"tokenizer_pre": "tekken"}, "pre-tokenizer 'tekken' is not supported"),
        ({"tokenizer_model": "bert"}, "tokenizer 'bert' with pre-tokenizer 'smollm' is not supported"),
        ({"tokenizer_model": "llama"}, "tokenizer.ggml.scores is missing"),
        ({"rope_scaling_type": gguf.RopeScalingType.YARN}, "rotary scaling 'yarn' is not supported"),
        ({"rope_scaling_type": gguf.RopeScalingType.LINEAR}, "the key llama.rope.scaling.factor is missing"),
        ({"expert_count": 4}, "mixture of experts"),
        ({"rope_dimension_count": 4}, "partial rotary embedding"),
        ({"value_length": 4}, "value width of its own"),
        ({"head_count_kv": [2, 1]}, "llama.attention.head_count_kv differs between layers"),
        ({"feed_forward_length": None}, "the key llama.feed_forward_length is missing"),
        ({"chat_template": None}, "no chat template"),
    ],
)
def test_what_we_do_not_compute_is_refused(file, options, message):
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
