"""Adapters against PEFT: it loads ours, we load its, and the logits are the same."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from icegrt_jax.errors import UserError
from icegrt_jax.models.heads import scalars, unembed
from icegrt_jax.models.hf.folder import load_hf
from icegrt_jax.models.hf.peft import CONFIG, WEIGHTS, load_adapter, save_adapter
from icegrt_jax.models.lora import LoRAConfig, init_adapter, with_adapter
from icegrt_jax.models.transformer import hidden_states
from icegrt_jax.models.tree import flatten, map_with_path
from tests.models.examples_hf import make_theirs, padded_batch, relative, their_logits

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
each_case = pytest.mark.parametrize("case", ["llama3.2", "qwen2", "gemma3"])
# PEFT still uses the name that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
LORA = LoRAConfig(rank=3, alpha=7.0)


def noisy(adapter, seed=2):
    rng = np.random.default_rng(seed)
    return map_with_path(lambda _, x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32), adapter)


def loaded(model, folder, **options):
    model.save_pretrained(folder)
    return load_hf(folder, **options)


@each_case
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_computes_the_same_from_our_folder(tmp_path, case, rslora):
    theirs = make_theirs(case)
    config, base = loaded(theirs, tmp_path / "base", scan_layers=rslora)
    lora = LoRAConfig(rank=3, alpha=7.0, targets=("q", "v", "down"), rslora=rslora)
    adapter = noisy(init_adapter(jax.random.key(0), base, lora))
    save_adapter(tmp_path / "adapter", adapter, config, lora, "base")
    tokens, mask, positions = padded_batch("left")
    expected = their_logits(peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter"), tokens, mask, positions)
    params = with_adapter(base, adapter, lora)
    got = unembed(params, config, hidden_states(params, config, tokens, mask))
    assert relative(got[mask], expected[mask]) <= 1e-5
    again, same = load_adapter(tmp_path / "adapter", config)
    assert (again.rank, again.alpha, again.rslora, set(again.targets)) == (3, 7.0, rslora, {"q", "v", "down"})
    for path, leaf in flatten(adapter).items():
        np.testing.assert_array_equal(flatten(same)[path], leaf)


@each_case
def test_we_compute_the_same_from_pefts_folder(tmp_path, case):
    theirs = make_theirs(case)
    config, base = loaded(theirs, tmp_path / "base")
    targets = ["q_proj", "o_proj", "gate_proj"]
    adapted = peft.get_peft_model(
        theirs, peft.LoraConfig(r=2, lora_alpha=5, target_modules=targets, layers_to_transform=[1])
    )
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight += 0.3 * torch.randn_like(weight)
    adapted.save_pretrained(tmp_path / "adapter")
    lora, adapter = load_adapter(tmp_path / "adapter", config)
    tokens, mask, positions = padded_batch("right")
    expected = their_logits(adapted, tokens, mask, positions)
    params = with_adapter(base, adapter, lora)
    got = unembed(params, config, hidden_states(params, config, tokens, mask))
    assert relative(got[mask], expected[mask]) <= 1e-5
    plain = unembed(base, config, hidden_states(base, config, tokens, mask))
    assert relative(plain[mask], expected[mask]) > 1e-3, "the adapter matters"
    scanned, _ = load_hf(tmp_path / "base", scan_layers=True)
    np.testing.assert_array_equal(load_adapter(tmp_path / "adapter", scanned)[1]["layers"]["attn"]["q"]["lora_a"][0], 0)


def test_a_reward_models_adapter_keeps_its_head(tmp_path):
    theirs = make_theirs("llama2", scalar=True)
    config, base = loaded(theirs, tmp_path / "base")
    adapter = noisy(init_adapter(jax.random.key(0), base, LORA, head=base["head"]))
    save_adapter(tmp_path / "adapter", adapter, config, LORA, "base")
    tokens, mask, positions = padded_batch("right")
    expected = their_logits(peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter"), tokens, mask, positions)
    params = with_adapter(base, adapter, LORA)
    last = hidden_states(params, config, tokens, mask)[np.arange(3), mask.sum(1) - 1]
    bias = float(adapter["head"]["bias"][0])
    assert relative(scalars(params, last)[:, None] - bias, expected) <= 1e-5, "theirs has no bias"
    _, again = load_adapter(tmp_path / "adapter", config)
    np.testing.assert_array_equal(again["head"]["bias"], adapter["head"]["bias"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base folder's shape, and an adapter for it."""
    path = tmp_path_factory.mktemp("peft")
    config, base = loaded(make_theirs("llama2"), path / "base")
    save_adapter(path / "adapter", init_adapter(jax.random.key(0), base, LORA), config, LORA, "base")
    return path / "adapter", config


def broken(folder, tmp_path, **changes):
    described = json.loads((folder / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**described, **changes}))
    (tmp_path / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3'; expected 'LORA'"),
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"modules_to_save": ["embed_tokens"]}, "only 'score' is supported"),
        ({"r": 5}, "lora_A.weight is .* the adapter is for another base"),
    ],
)
def test_what_we_would_compute_differently_is_refused(folder, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load_adapter(broken(folder[0], tmp_path, **changes), folder[1])


def test_an_adapter_for_another_base_is_refused_naming_its_tensor(folder, tmp_path):
    path, config = folder
    tensors = load_file(path / WEIGHTS)
    other = broken(path, tmp_path)
    wide = {name: np.zeros((3, 64), np.float32) if "q_proj.lora_A" in name else x for name, x in tensors.items()}
    save_file(wide, other / WEIGHTS)
    with pytest.raises(UserError, match=r"q_proj.lora_A.weight is \[3, 64\], this model needs \[3, 32\]"):
        load_adapter(other, config)
    name = min(name for name in tensors if "layers.1" in name)
    save_file({**tensors, name.replace("layers.1", "layers.7"): tensors[name]}, other / WEIGHTS)
    with pytest.raises(UserError, match=r"layers.7.*has no place in this llama model of 2 layers"):
        load_adapter(other, config)


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(UserError, match="no adapter_config.json here"):
        load_adapter(tmp_path, None)
