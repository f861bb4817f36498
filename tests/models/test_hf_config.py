"""config.json files, published ones with the keys of transformers 4 and those that say little: both ways."""

import inspect
import json
import pathlib

import jax
import numpy as np
import pytest

from icegrt_jax.errors import UserError
from icegrt_jax.models import transformer
from icegrt_jax.models.heads import unembed
from icegrt_jax.models.hf.config import read_activation, read_hf_config, to_hf_config, to_model_config
from icegrt_jax.models.hf.families import FAMILIES, Family
from icegrt_jax.models.hf.folder import load_hf
from tests.models.examples_hf import SHAPE, padded_batch, relative, their_logits

each_model_type = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())

COMMON = {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768}
LLAMA_32_1B = {
    "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192,
    "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "rope_theta": 500000.0,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3",
                     "original_max_position_embeddings": 8192},
    "pretraining_tp": 1, "tie_word_embeddings": True, "vocab_size": 128256, "head_dim": 64, "mlp_bias": False,
}  # fmt: skip
QWEN_25_05B = {
    "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
    "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rope_theta": 1000000.0,
    "max_window_layers": 21, "sliding_window": 32768, "use_sliding_window": False, "tie_word_embeddings": True,
    "vocab_size": 151936,
}  # fmt: skip
MISTRAL_7B = {
    "architectures": ["MistralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rope_theta": 10000.0,
    "sliding_window": 4096, "tie_word_embeddings": False, "vocab_size": 32000,
}  # fmt: skip
GEMMA_2B = {
    "architectures": ["GemmaForCausalLM"], "hidden_act": "gelu", "hidden_size": 2048, "intermediate_size": 16384,
    "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1, "rope_theta": 10000.0,
    "rope_scaling": None, "head_dim": 256, "vocab_size": 256000,
}  # fmt: skip
GEMMA_2_2B = {
    "architectures": ["Gemma2ForCausalLM"], "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304, "intermediate_size": 9216, "num_attention_heads": 8, "num_hidden_layers": 26,
    "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 224, "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0, "sliding_window": 4096, "rope_theta": 10000.0, "vocab_size": 256000,
}  # fmt: skip
GEMMA_3_1B = {
    "architectures": ["Gemma3ForCausalLM"], "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152,
    "intermediate_size": 6912, "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
    "head_dim": 256, "query_pre_attn_scalar": 256, "attn_logit_softcapping": None, "final_logit_softcapping": None,
    "sliding_window": 512, "sliding_window_pattern": 6, "rope_theta": 1000000, "rope_local_base_freq": 10000,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "vocab_size": 262144,
}  # fmt: skip


@pytest.mark.parametrize(
    "raw, billions, fields",
    [
        (LLAMA_32_1B, 1.236, {"rope_scaling": "llama3", "rope_factor": 32.0, "rope_original_length": 8192}),
        (QWEN_25_05B, 0.494, {"qkv_bias": True, "layer_windows": (), "head_dim": 64}),
        (MISTRAL_7B, 7.242, {"layer_windows": (4096,) * 32}),
        (GEMMA_2B, 2.506, {"activation": "gelu_tanh", "tie_embeddings": True}),
        (GEMMA_2_2B, 2.614, {"layer_windows": (4096, 0) * 13, "attn_softcap": 50.0, "query_pre_attn_scalar": 224}),
        (
            GEMMA_3_1B,
            1.000,
            {
                "layer_windows": ((512,) * 5 + (0,)) * 4 + (512,) * 2,
                "rope_theta": 1e6,
                "local_rope_theta": 1e4,
                "rope_factor": 8.0,
                "final_softcap": 0.0,
            },
        ),
    ],
    ids=["llama3.2-1b", "qwen2.5-0.5b", "mistral-7b", "gemma-2b", "gemma2-2b", "gemma3-1b"],
)
def test_published_models_are_described_and_written_back(tmp_path, raw, billions, fields):
    (tmp_path / "config.json").write_text(json.dumps({**COMMON, **raw}))
    config = to_model_config(read_hf_config(tmp_path), tmp_path, scan_layers=True, dtype="bfloat16")
    assert round(config.num_params / 1e9, 3) == billions
    assert {name: getattr(config, name) for name in fields} == fields
    written = to_hf_config(config, dtype="bfloat16", token_ids={}, head_bias=None)
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert to_model_config(read_hf_config(tmp_path), tmp_path, scan_layers=True, dtype="bfloat16") == config


def read(folder: pathlib.Path):
    return to_model_config(read_hf_config(folder), folder, scan_layers=False, dtype="float32")


def config_class(family: Family):
    name = type(pytest.importorskip("transformers").AutoConfig.for_model(family.model_type)).__name__
    return getattr(pytest.importorskip("transformers"), name)


@each_model_type
def test_a_key_that_is_left_out_has_the_value_that_transformers_gives_it(family):
    theirs = inspect.signature(config_class(family).__init__).parameters
    ours = {key: value for key, value in family.defaults.items() if key != "sliding_window_pattern"}
    assert ours == {key: theirs[key].default if key in theirs else None for key in ours}
    assert {*family.keys, family.activation_key} <= ours.keys()


@each_model_type
def test_a_config_that_says_little_is_computed_as_transformers_computes_it(family, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    heads = family.defaults["num_attention_heads"]
    small = {key: SHAPE[key] for key in ("vocab_size", "intermediate_size", "num_hidden_layers", "pad_token_id")}
    config = config_class(family)(**small, hidden_size=2 * heads, head_dim=2, use_cache=False)
    torch.manual_seed(0)
    theirs = getattr(transformers, family.language_model)(config).eval()
    theirs.save_pretrained(tmp_path)
    file, said = tmp_path / "config.json", {"architectures", "model_type", "hidden_size", "head_dim", *small}
    raw = json.loads(file.read_text())
    assert "num_attention_heads" in raw and "rms_norm_eps" in raw
    file.write_text(json.dumps({key: raw[key] for key in said}))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    tokens, mask, positions = padded_batch("right")
    expected = their_logits(theirs, tokens, mask, positions)
    config, params = load_hf(tmp_path)
    got = unembed(params, config, jax.jit(transformer.hidden_states, static_argnums=1)(params, config, tokens, mask))
    assert relative(np.asarray(got)[mask], expected[mask]) <= 1e-5


def test_an_activation_is_known_by_every_name_that_transformers_has_for_it():
    torch, activations = pytest.importorskip("torch"), pytest.importorskip("transformers.activations")
    x, equal = torch.linspace(-6, 6, 1001), 0
    ours = {"silu": torch.nn.functional.silu(x), "gelu_tanh": torch.nn.functional.gelu(x, approximate="tanh")}
    for name in activations.ACT2FN:
        if name in ("prelu", "xielu"):  # these have weights
            continue
        values = activations.ACT2FN[name](x)
        expected = [kind for kind, found in ours.items() if torch.allclose(values, found, atol=1e-6)]
        try:
            got = [read_activation(FAMILIES["gemma2"], {"hidden_activation": name})]
        except UserError:
            got = []
        assert got == expected, name
        equal += len(expected)
    assert equal >= 6


def test_gemma_is_read_without_heads_and_with_swish(tmp_path):
    raw = {key: value for key, value in GEMMA_2B.items() if key not in ("num_attention_heads", "num_key_value_heads")}
    (tmp_path / "config.json").write_text(json.dumps({**COMMON, **raw, "hidden_act": "swish"}))
    config = read(tmp_path)
    assert (config.num_heads, config.num_kv_heads, config.activation) == (16, 16, "silu")


WRONG = (
    None, True, -1, 0, 1, 2.5, float("nan"), float("inf"), 10**400, "", "7", [], [None], {}, {"a": 1}, {"rope_type": 7},
    {"rope_type": "linear", "factor": "8"}, {"full_attention": 7}, ["full_attention"], [["LlamaForCausalLM"]],
)  # fmt: skip


@each_model_type
def test_a_key_of_a_wrong_type_is_named_or_harmless(family, tmp_path):
    """Every key that is read, with every wrong value: a config, or a sentence with the key."""
    whole = {**family.defaults, "architectures": [family.language_model], "rope_theta": 1e4, "rope_scaling": None}
    for key in (*whole, *family.fixed, *family.keys, "rope_parameters", "layer_types", "model_type"):
        for value in WRONG:
            (tmp_path / "config.json").write_text(json.dumps(COMMON | whole | {key: value}))
            try:
                to_model_config(read_hf_config(tmp_path), tmp_path, scan_layers=False, dtype="float32")
            except UserError as error:
                assert len(str(error).replace(str(tmp_path), "")) < 450, (key, value)
