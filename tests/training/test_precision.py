"""Products of float32 numbers are float32 products on every device, and nothing is paid where they are not."""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from icegrt_jax.models.lora import LoRAConfig, init_adapter, merged
from icegrt_jax.sampling import SamplerConfig, sample_responses, sequence_keys
from icegrt_jax.training.first_check import disagreement
from icegrt_jax.training.ppo import ppo_update, score
from icegrt_jax.training.updates import reward_update, sft_update
from tests.training.examples import (
    T,
    make_experience,
    make_policy,
    make_prompts,
    make_ranking_batch,
    make_rollout,
    make_sft_batch,
    make_state,
)

PRODUCT = re.compile(r"stablehlo\.dot_general.*?precision = \[(\w+), (\w+)\].*?: \(tensor<([^>]*)>, tensor<([^>]*)>\)")


def state_in(dtype: str):
    state = make_state(kl_in="loss", kl_kind="exact", ptx_coef=0.1)
    return state.replace(models=tuple((role, dataclasses.replace(x, dtype=dtype)) for role, x in state.models))


def sampled(state):
    prompts, mask = make_prompts()
    config = SamplerConfig(max_new_tokens=T)
    model, keys = state.model("policy"), sequence_keys(jax.random.key(1), 0, len(prompts))
    return sample_responses(keys, state.params["policy"], prompts, mask, model=model, config=config)


PROGRAMS = {
    "sft": lambda state: sft_update(state, make_sft_batch()),
    "reward": lambda state: reward_update(state, make_ranking_batch()),
    "ppo": lambda state: ppo_update(state, make_experience(ptx=True)),
    "score": lambda state: score(state, make_rollout(make_state())),
    "start-up check": lambda state: disagreement(state, make_rollout(make_state())),
    "sampler": sampled,
}


def products(program, *args) -> list[tuple[set, set]]:
    """Precisions and dtypes of the factors of every product in a program as it is given to XLA."""
    found = PRODUCT.findall(jax.jit(program).lower(*args).as_text())
    return [({p, q}, {a.rpartition("x")[2], b.rpartition("x")[2]}) for p, q, a, b in found]


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_product_of_a_float32_model_is_made_in_float32(name):
    found = products(PROGRAMS[name], state_in("float32"))
    assert len(found) > 10 and all(dtypes == {"f32"} for _, dtypes in found)
    assert all(precisions == {"HIGHEST"} for precisions, _ in found)


@pytest.mark.parametrize("name", ["score", "start-up check", "sampler"])  # gradients keep the default precision there
def test_a_bfloat16_model_has_float32_products_where_its_scalars_are_and_pays_nowhere_else(name):
    found = products(PROGRAMS[name], state_in("bfloat16"))
    of = lambda dtypes: [precisions for precisions, factors in found if factors == dtypes]
    assert len(of({"bf16"})) > 5 and all(precisions == {"DEFAULT"} for precisions in of({"bf16"}))
    assert all(precisions == {"HIGHEST"} for precisions in of({"f32"}))
    assert bool(of({"f32"})) or name == "sampler"


def test_adapters_are_merged_in_float32():
    lora = LoRAConfig(rank=2)
    found = products(lambda base: merged(base, init_adapter(jax.random.key(0), base, lora), lora), make_policy(0))
    assert found and all(precisions == {"HIGHEST"} for precisions, _ in found)


def test_logits_of_bfloat16_factors_are_exact_products_summed_in_float32():
    """Why HIGHEST would gain nothing there: a product of two bfloat16 numbers has 16 bits."""
    a, b = (jax.random.normal(key, (1000,), jnp.bfloat16) for key in jax.random.split(jax.random.key(0)))
    wide = a.astype(jnp.float32) * b.astype(jnp.float32)
    assert (jax.device_get(wide).astype("float64") == jax.device_get(a).astype("float64") * jax.device_get(b)).all()


COMPILE = """
import json, re, sys
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import scalars, unembed

device = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
model = ModelConfig(vocab_size=512, d_model=256, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=128, d_ff=256)
params = {"embed": {"embedding": (512, 256)}, "head": {"kernel": (256, 1), "bias": (1,)}}
here = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=SingleDeviceSharding(device))
params = jax.tree.map(lambda s: here(s, jnp.float32), params, is_leaf=lambda s: isinstance(s, tuple))
both = lambda params, hidden: (unembed(params, model, hidden), scalars(params, hidden))
programs = {"both": both, "unembed": lambda *x: both(*x)[0], "plain": lambda p, h: h @ p["embed"]["embedding"].T}
found = {}
for name, program in programs.items():
    for dtype in ("float32", "bfloat16"):
        text = jax.jit(program).lower(params, here((128, 256), dtype)).compile().as_text()
        made = [line for line in text.splitlines() if re.search(r" = \\S+ (convolution|dot)\\(", line)]
        found[f"{name} {dtype}"] = [("operand_precision={highest,highest}" in line) for line in made]
print(json.dumps(found))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason='libtpu is not installed: pip install "icegrt_jax[tpu]"'
)
def test_a_program_compiled_for_a_tpu_makes_float32_products():
    environ = {**os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    run = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environ)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert all(found["both float32"]) and found["unembed float32"], found
    assert not any(found["unembed bfloat16"]), "bfloat16 logits cost what they did"
    assert not any(found["plain float32"]), "what JAX does unless it is told"
