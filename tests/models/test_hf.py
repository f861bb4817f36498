"""Hugging Face folders: there and back, against transformers and torch, and what is refused."""

import dataclasses
import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file, save_file

from icegrt_jax.data.tokenizers import ChatTokenizer, load_tokenizer, train_bpe
from icegrt_jax.errors import UserError
from icegrt_jax.models import transformer
from icegrt_jax.models.heads import unembed
from icegrt_jax.models.hf import tensors
from icegrt_jax.models.hf.families import ARCHITECTURES
from icegrt_jax.models.hf.folder import load_hf, save_hf
from icegrt_jax.models.tree import map_with_path
from tests.models.examples import CONFIG, make_params, stacked
from tests.models.examples_hf import make_theirs, padded_batch, relative, their_logits

UNTIED = dataclasses.replace(CONFIG, tie_embeddings=False)
tied_and_untied = pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["tied", "untied"])
hidden_states = jax.jit(transformer.hidden_states, static_argnames="config")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> ChatTokenizer:
    return train_bpe(["12 apples and 30 pears"], 300, tmp_path_factory.mktemp("tokenizer"))


def edit_config(folder: pathlib.Path, **changes) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, **changes}))


# There and back


@tied_and_untied
@pytest.mark.parametrize("scan_layers", [False, True])
def test_what_was_saved_is_loaded(tmp_path, config, scan_layers):
    params = make_params(config)
    if scan_layers:
        config, params = stacked(config, params)
    save_hf(tmp_path / "model", config, params, None)
    loaded_config, loaded = load_hf(tmp_path / "model", scan_layers=scan_layers)
    assert loaded_config == config
    chex.assert_trees_all_equal(loaded, params)


def test_one_folder_loads_scanned_or_unrolled(tmp_path):
    params = make_params()
    save_hf(tmp_path / "model", CONFIG, params, None)
    chex.assert_trees_all_equal(load_hf(tmp_path / "model", scan_layers=True)[1], stacked(CONFIG, params)[1])


def test_a_reward_model_keeps_its_head_and_the_bias_in_the_config(tmp_path):
    params = make_params(UNTIED, scalar_head=True)
    save_hf(tmp_path / "model", UNTIED, params, None)
    assert load_file(tmp_path / "model" / "model.safetensors")["score.weight"].shape == (1, CONFIG.d_model)
    config, loaded = load_hf(tmp_path / "model")
    assert config == UNTIED
    chex.assert_trees_all_equal(loaded, params)


def test_bfloat16_is_written_and_read(tmp_path):
    params = make_params()
    save_hf(tmp_path / "model", CONFIG, params, None, dtype="bfloat16")
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    _, loaded = load_hf(tmp_path / "model", param_dtype="bfloat16")
    chex.assert_trees_all_equal(loaded, rounded)
    config, loaded = load_hf(tmp_path / "model", dtype="bfloat16")
    assert config.dtype == "bfloat16"
    chex.assert_trees_all_equal(loaded, jax.tree.map(lambda x: x.astype(jnp.float32), rounded))


def test_several_files_with_an_index_are_read(tmp_path):
    params = make_params()
    save_hf(tmp_path, CONFIG, params, None)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    chex.assert_trees_all_equal(load_hf(tmp_path)[1], params)


@pytest.mark.parametrize("stale", ["index", "shards"])
def test_weights_are_read_from_the_file_that_transformers_reads(tmp_path, stale):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    save_hf(tmp_path / "old", CONFIG, make_params(seed=1), None, max_shard_bytes=4000)
    save_hf(tmp_path / "model", CONFIG, make_params(), None)
    for file in (tmp_path / "old").glob("*.json" if stale == "index" else "model*"):
        if file.name != "config.json":
            (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    loaded = load_hf(tmp_path / "model")[1]
    chex.assert_trees_all_equal(loaded, make_params())
    assert torch.equal(theirs["model.norm.weight"], torch.tensor(np.asarray(loaded["final_norm"]["scale"])))


def test_an_adapter_beside_a_whole_model_is_refused(tmp_path):
    save_hf(tmp_path / "model", CONFIG, make_params(), None)
    (tmp_path / "model" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"adapter_config\.json: an adapter beside a whole model"):
        load_hf(tmp_path / "model")


def test_a_missing_shard_and_a_lost_tensor_are_named_with_their_file(tmp_path):
    save_hf(tmp_path / "model", CONFIG, make_params(), None, max_shard_bytes=4000)
    index = tmp_path / "model" / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    file = raw["weight_map"]["model.norm.weight"]
    raw["weight_map"]["model.extra.weight"] = file
    index.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=rf"{file}: has no model\.extra\.weight, which .* says is there"):
        load_hf(tmp_path / "model")
    (tmp_path / "model" / file).unlink()
    with pytest.raises(UserError, match=rf"{file}: missing; .* names it for model\."):
        load_hf(tmp_path / "model")
    index.write_text("{}")
    with pytest.raises(UserError, match=r"index\.json: no index of weights"):
        load_hf(tmp_path / "model")


def test_float16_is_written_and_refused_where_it_overflows(tmp_path):
    params = make_params()
    save_hf(tmp_path / "model", CONFIG, params, None, dtype="float16")
    halved = jax.tree.map(lambda x: x.astype(jnp.float16).astype(jnp.float32), params)
    chex.assert_trees_all_equal(load_hf(tmp_path / "model")[1], halved)
    params["final_norm"]["scale"] = params["final_norm"]["scale"].at[0].set(1e6)
    with pytest.raises(UserError, match=r"model\.norm\.weight: holds numbers too large for float16"):
        save_hf(tmp_path / "large", CONFIG, params, None, dtype="float16")
    with pytest.raises(UserError, match=r"dtype='int8'; expected one of float32"):
        save_hf(tmp_path / "large", CONFIG, params, None, dtype="int8")
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("scan_layers", [False, True])
def test_parameters_are_read_straight_into_their_shards(tmp_path, scan_layers):
    config, params = CONFIG, make_params()
    if scan_layers:
        config, params = stacked(config, params)
    save_hf(tmp_path / "model", config, params, None)
    mesh = jax.make_mesh((2, 4), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)

    def sharding(path, leaf):
        return NamedSharding(mesh, P(*[None] * (leaf.ndim - 2), "fsdp", "tensor") if "kernel" in path else P())

    shardings = map_with_path(sharding, params)
    _, loaded = load_hf(tmp_path / "model", scan_layers=scan_layers, shardings=shardings)
    chex.assert_trees_all_equal(loaded, params)
    for leaf, expected in zip(jax.tree.leaves(loaded), jax.tree.leaves(shardings)):
        assert leaf.sharding == expected


def test_the_ids_that_end_and_pad_are_written_for_generation(tmp_path, tokenizer):
    config = dataclasses.replace(CONFIG, vocab_size=300)
    save_hf(tmp_path / "model", config, make_params(config), tokenizer)
    for file in ("config.json", "generation_config.json"):
        raw = json.loads((tmp_path / "model" / file).read_text())
        assert (raw["eos_token_id"], raw["pad_token_id"]) == (tokenizer.eos_id, tokenizer.pad_id)


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_an_export_keeps_every_eos_id_and_the_settings_of_generation(tmp_path, tokenizer, file):
    settings = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "repetition_penalty": 1.1, "max_length": 77}
    settings = settings if file == "generation_config.json" else {}
    tokenizer.save(tmp_path / "theirs")
    (tmp_path / "theirs" / file).write_text(json.dumps({**settings, "eos_token_id": [5, 1, 7], "bos_token_id": 5}))
    loaded = load_tokenizer(tmp_path / "theirs")
    assert loaded.eos_ids == (1, 5, 7), "the template's first"
    loaded.save(tmp_path / "run")  # as a run keeps it
    config = dataclasses.replace(CONFIG, vocab_size=300)
    save_hf(tmp_path / "model", config, make_params(config), load_tokenizer(tmp_path / "run"))
    raw = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert raw["eos_token_id"] == [1, 5, 7] and {key: raw[key] for key in settings} == settings
    assert json.loads((tmp_path / "model" / "config.json").read_text())["eos_token_id"] == [1, 5, 7]
    assert load_tokenizer(tmp_path / "model").eos_ids == (1, 5, 7)
    config = dataclasses.replace(UNTIED, vocab_size=300)
    save_hf(tmp_path / "reward", config, make_params(config, scalar_head=True), load_tokenizer(tmp_path / "run"))
    assert load_tokenizer(tmp_path / "reward").eos_ids == (1, 5, 7)


def test_an_old_folder_with_rope_theta_and_stored_buffers_is_read(tmp_path):
    config = dataclasses.replace(CONFIG, num_heads=3, num_kv_heads=1)  # D / N wide, so that head_dim can be left out
    params = make_params(config)
    save_hf(tmp_path, config, params, None)
    raw = json.loads((tmp_path / "config.json").read_text())
    del raw["rope_parameters"], raw["head_dim"], raw["dtype"]
    (tmp_path / "config.json").write_text(json.dumps({**raw, "rope_scaling": None}))
    tensors = load_file(tmp_path / "model.safetensors")
    for i, dtype in enumerate((np.float32, np.float16)):
        frequencies = (500.0 ** (-np.arange(4) / 4)).astype(dtype)
        tensors[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = frequencies
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]  # tied, yet stored
    save_file(tensors, tmp_path / "model.safetensors")
    loaded_config, loaded = load_hf(tmp_path)
    assert loaded_config == config
    chex.assert_trees_all_equal(loaded, params)


def with_tensor(folder: pathlib.Path, name: str, change) -> np.ndarray:
    """Stores `change(tensors)` under `name` beside a folder's tensors."""
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = np.ascontiguousarray(change(tensors))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return tensors[name]


@pytest.mark.parametrize("key", ["stated", "left out"])
@pytest.mark.parametrize("case", ["llama3.2", "gemma", "gemma2", "gemma3"])
def test_a_stored_output_matrix_of_other_values_is_used_though_the_config_says_tied(tmp_path, case, key):
    transformers = pytest.importorskip("transformers")
    make_theirs(case).save_pretrained(tmp_path)
    other = with_tensor(tmp_path, "lm_head.weight", lambda tensors: tensors["model.embed_tokens.weight"][::-1])
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["tie_word_embeddings"]
    if key == "left out" and case != "llama3.2":  # whose families are tied without a word
        (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in raw.items() if k != "tie_word_embeddings"}))
    config, params = load_hf(tmp_path)
    assert not config.tie_embeddings
    chex.assert_trees_all_equal(params["lm_head"]["kernel"], other.T)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    tokens, mask, positions = padded_batch("right")
    got = unembed(params, config, hidden_states(params, config, tokens, mask))
    assert relative(got[mask], their_logits(theirs, tokens, mask, positions)[mask]) <= 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tied_matrix_that_is_stored_twice_stays_one(tmp_path, monkeypatch, dtype):
    save_hf(tmp_path / "model", CONFIG, make_params(), None, dtype=dtype)
    with_tensor(tmp_path / "model", "lm_head.weight", lambda tensors: tensors["model.embed_tokens.weight"].copy())
    monkeypatch.setattr(tensors, "BLOCK_BYTES", 8 * CONFIG.d_model * 7)  # rows by sevens
    config, params = load_hf(tmp_path / "model")
    assert config == CONFIG and "lm_head" not in params
    last = lambda tensors: np.concatenate([tensors["lm_head.weight"][:-1], tensors["lm_head.weight"][-1:] * 2])
    with_tensor(tmp_path / "model", "lm_head.weight", last)
    assert not load_hf(tmp_path / "model")[0].tie_embeddings, "the last row differs"


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_stored_rotary_frequencies_of_another_base_are_refused(tmp_path, name, dtype):
    save_hf(tmp_path / "model", CONFIG, make_params(), None)
    with_tensor(tmp_path / "model", name, lambda _: (10000.0 ** (-np.arange(4) / 4)).astype(dtype))
    with pytest.raises(UserError, match=rf"{name} holds other rotary frequencies .*rope_theta=500\)"):
        load_hf(tmp_path / "model")


def test_a_reward_model_with_an_output_matrix_of_its_own_is_refused(tmp_path):
    save_hf(tmp_path / "model", CONFIG, make_params(scalar_head=True), None)
    embedding = with_tensor(tmp_path / "model", "lm_head.weight", lambda tensors: tensors["model.embed_tokens.weight"])
    load_hf(tmp_path / "model")
    with_tensor(tmp_path / "model", "lm_head.weight", lambda _: embedding + 1)
    with pytest.raises(UserError, match=r"1 unexpected tensor\(s\), first lm_head\.weight"):
        load_hf(tmp_path / "model")


# What is refused


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not supported"),
        ({"architectures": None}, r"config\.json: architecture \(none\) is not supported"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, r"config\.json: rope_scaling=.*'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 3.0}}, "beta_fast is not supported"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "the key 'low_freq_factor' is missing"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ({"quantization_config": {"bits": 4}}, "quantization_config="),
        ({"architectures": ["Gemma3ForCausalLM"], "attn_logit_softcapping": 5.0}, r"attn_logit_softcapping=5\.0"),
        ({"architectures": ["Gemma2ForCausalLM"], "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"architectures": ["Gemma2ForCausalLM"], "layer_types": ["chunked_attention"] * 2}, "chunked_attention"),
        ({"architectures": ["Qwen3ForCausalLM"], "attention_bias": True}, "attention_bias=True"),
        ({"architectures": ["Qwen2ForCausalLM"], "layer_types": ["sliding_attention"] * 2}, "sliding_window is not"),
        ({"is_causal": False}, r"config\.json: is_causal=False is not supported; only True is"),
        ({"per_layer_config": {"0": {"num_attention_heads": 2}}}, "per_layer_config="),
        ({"transformers_weights": "other.safetensors"}, r"transformers_weights='other\.safetensors'"),
        ({"text_config": {"is_causal": False}}, "text_config="),
        ({"model_type": "mistral"}, "model_type='mistral', by which .* LlamaForCausalLM is of 'llama'"),
        ({"intermediate_size": 41}, r"model\.safetensors: model\.layers\.0\.mlp\.\w+_proj\.weight has shape"),
        ({"num_hidden_layers": 1}, r"unexpected tensor\(s\), first model\.layers\.1\."),
        ({"num_hidden_layers": 3}, r"missing tensor\(s\), first model\.layers\.2\."),
        ({"tie_word_embeddings": False}, r"missing tensor\(s\), first lm_head\.weight"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_with_its_key(tmp_path, changes, message):
    save_hf(tmp_path / "model", CONFIG, make_params(), None)
    if family := ARCHITECTURES.get((changes.get("architectures") or [""])[0]):
        changes = {"model_type": family.model_type, **changes}
    edit_config(tmp_path / "model", **changes)
    with pytest.raises(UserError, match=message):
        load_hf(tmp_path / "model")


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json here"):
        load_hf(tmp_path)
    save_hf(tmp_path / "model", CONFIG, make_params(), None)
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read"):
        load_hf(tmp_path / "model")
    weights.unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors here"):
        load_hf(tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: a pickle, .* convert it"):
        load_hf(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load_hf(tmp_path / "model")


def test_an_integer_tensor_is_refused(tmp_path):
    save_hf(tmp_path, CONFIG, make_params(), None)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.int8)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.norm\.weight is stored as I8"):
        load_hf(tmp_path)


def test_an_export_replaces_an_older_one_and_nothing_else(tmp_path):
    target = tmp_path / "model"
    save_hf(target, CONFIG, make_params(seed=1), None)
    save_hf(target, CONFIG, make_params(seed=2), None)
    chex.assert_trees_all_equal(load_hf(target)[1], make_params(seed=2))
    (target / "thesis.txt").write_text("the only copy")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        save_hf(target, CONFIG, make_params(seed=3), None)
    assert (target / "thesis.txt").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_failed_export_leaves_nothing(tmp_path):
    with pytest.raises(AssertionError):
        save_hf(tmp_path / "model", CONFIG, make_params(UNTIED), None)
    assert not any(tmp_path.iterdir())


def test_a_shape_that_transformers_refuses_is_not_exported(tmp_path):
    config = dataclasses.replace(CONFIG, num_heads=5, num_kv_heads=1)
    with pytest.raises(UserError, match=r"d_model=24 does not divide over num_heads=5"):
        save_hf(tmp_path / "model", config, make_params(config), None)
    assert not any(tmp_path.iterdir())


def test_what_its_family_cannot_describe_is_not_exported(tmp_path):
    config = dataclasses.replace(CONFIG, qk_norm=True)
    with pytest.raises(UserError, match=r"model\.qk_norm=True cannot be written as a llama model"):
        save_hf(tmp_path / "model", config, make_params(config), None)
    with pytest.raises(UserError, match=r"model\.family='bert'; expected one of llama, "):
        save_hf(tmp_path / "model", dataclasses.replace(CONFIG, family="bert"), make_params(), None)
    assert not any(tmp_path.iterdir())


# Against transformers and torch


def test_a_model_made_here_has_its_logits_in_transformers(tmp_path, tokenizer):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = dataclasses.replace(UNTIED, vocab_size=300)
    params = make_params(config)
    save_hf(tmp_path / "model", config, params, tokenizer)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert model.generation_config.eos_token_id == tokenizer.eos_id
    prompt = tokenizer.encode_prompt([{"role": "user", "content": "12 apples"}])
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    text = theirs.apply_chat_template(
        [{"role": "user", "content": "12 apples"}], tokenize=False, add_generation_prompt=True
    )
    assert theirs(text, add_special_tokens=False)["input_ids"] == prompt
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits.numpy()
    tokens = jnp.array([prompt], jnp.int32)
    got = unembed(params, config, hidden_states(params, config, tokens, jnp.ones(tokens.shape, jnp.bool_)))
    assert relative(got, expected) <= 1e-5
