"""Published config.json files, with the keys of transformers 4: what is read from them, and written back."""

import json

import pytest

from icegrt_jax.models.hf_config import read_hf_config, to_hf_config, to_model_config

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
