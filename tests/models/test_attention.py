"""The fused ways to attend give what the plain way gives, at every real token, forward and backward.

The kernel for TPUs runs anywhere in interpret mode. cuDNN's runs on a GPU only, where
`JAX_PLATFORMS=cuda python -m pytest tests/models/test_attention.py` compares it; on a CPU XLA stands for it.
"""

import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from icegrt_jax.errors import UserError
from icegrt_jax.models import attention, splash, transformer
from icegrt_jax.models.cache import empty_cache
from icegrt_jax.sharding.mesh import AXES, ROLLOUT_AXES
from tests.models.examples import CONFIG, EVERYTHING, make_params, make_tokens, stacked

ROOT = pathlib.Path(__file__).parent.parent.parent
LENGTH = 131  # more than a block, and odd
SEGMENTS = np.zeros((5, LENGTH), np.int32)  # padded on the left, on the right, on both sides, not at all; packed
SEGMENTS[0, 9:] = SEGMENTS[1, :77] = SEGMENTS[2, 50:129] = SEGMENTS[3] = SEGMENTS[4, :40] = 1
SEGMENTS[4, 40:100], SEGMENTS[4, 100:125] = 2, 3
PADDED = SEGMENTS[:4]
BACKEND = jax.default_backend()
cpu = pytest.mark.skipif(BACKEND != "cpu", reason="a GPU's float32 products are rounded")


def mesh_of(*sizes):
    """The run's mesh over some of the devices, or that of its rollouts, which has more axes."""
    axes, count = {3: AXES, 6: ROLLOUT_AXES}[len(sizes)], int(np.prod(sizes))
    return jax.make_mesh(sizes, axes, axis_types=(AxisType.Auto,) * len(axes), devices=jax.devices()[:count])


@pytest.fixture
def interpreted(monkeypatch):
    """Programs take themselves to be on a TPU, with a kernel that runs anywhere; gives the windows it is made for."""
    used = []

    def kernel(*args, window, **options):
        used.append(window)
        return original(*args, window=window, interpret=True, **options)

    original = splash.splash_attention
    monkeypatch.setattr(attention, "platform", lambda: "tpu")
    monkeypatch.setattr(splash, "splash_attention", kernel)
    return used


@pytest.fixture
def like_cudnn(monkeypatch):
    """Programs take themselves to be on a GPU, with XLA for cuDNN, in any dtype; gives the calls' flags."""
    used = []

    def stand_in(*args, implementation, **options):
        assert implementation == "cudnn"
        used.append((options["mask"] is not None, options["local_window_size"]))
        return original(*args, implementation="xla", **options)

    original = jax.nn.dot_product_attention
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    monkeypatch.setattr(attention, "_cudnn_cannot", lambda config: "")
    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    return used


def attend(q, k, v, segments, *, window, softcap):
    """The definition, with q already scaled: f[B, L, N, H]."""
    groups, slots, segments = q.shape[2] // k.shape[2], np.arange(q.shape[1]), np.asarray(segments)
    k, v = (jnp.repeat(x, groups, axis=2) for x in (k, v))
    distance = slots[:, None] - slots[None, :]
    seen = ((distance >= 0) & (distance < (window or len(slots))))[None]
    seen = seen & (segments[:, :, None] == segments[:, None, :])
    scores = jnp.einsum("blnh,bsnh->bnls", q, k)
    scores = softcap * jnp.tanh(scores / softcap) if softcap else scores
    weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -1e30), axis=-1)
    return jnp.einsum("bnls,bsnh->blnh", weights, v)


def make_heads(heads, kv_heads, width=8, rows=5):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(rows, LENGTH, n, width)), jnp.float32) for n in (heads, kv_heads, kv_heads)]


def with_gradients(fn, *arrays):
    loss = lambda *x: (jnp.sum(jnp.sin(out := fn(*x))), out)
    return jax.jit(jax.value_and_grad(loss, range(len(arrays)), has_aux=True))(*arrays)


@cpu
@pytest.mark.parametrize("heads, kv_heads, window, softcap", [(4, 2, 0, 0.0), (3, 1, 7, 2.0)])
def test_splash_equals_the_definition_on_every_kind_of_row(heads, kv_heads, window, softcap):
    options = {"window": window, "softcap": softcap}
    arrays = make_heads(heads, kv_heads)
    got = with_gradients(lambda *x: splash.splash_attention(*x, SEGMENTS, interpret=True, **options), *arrays)
    want = with_gradients(lambda *x: attend(*x, SEGMENTS, **options), *arrays)
    chex.assert_trees_all_close(got, want, atol=2e-5, rtol=1e-4)


@cpu
@pytest.mark.parametrize(
    "sizes, kv_heads, windows",
    [((1, 2, 4), 2, (7, 0)), ((8, 1, 1), 1, ()), ((1, 1, 2, 2, 1, 2), 2, ())],
    ids=["tensor", "data", "rollout"],
)
def test_splash_is_split_over_rows_and_heads_of_the_mesh(interpreted, sizes, kv_heads, windows):
    """Also with fewer key heads than devices, rows that do not divide, and a window that only the layer knows."""
    arrays, segments = make_heads(4, kv_heads, rows=4), jnp.asarray(PADDED)
    config = dataclasses.replace(CONFIG, num_kv_heads=kv_heads, layer_windows=windows)
    window = jnp.asarray(max(windows, default=0))
    with jax.set_mesh(mesh_of(*sizes)):
        seen = attention.Seen("splash", segments)
        got = with_gradients(lambda *x: attention.attend_fused(*x, seen, config, window), *arrays)
    want = with_gradients(lambda *x: attend(*x, segments, window=int(window), softcap=0.0), *arrays)
    chex.assert_trees_all_close(got, want, atol=2e-5, rtol=1e-4)


def hidden_and_gradients(config, params, told):
    """Hidden states at real tokens, and the gradient of a function of them with respect to all parameters."""
    tokens = make_tokens(*told["mask"].shape)

    def loss(params):
        hidden = transformer.hidden_states(params, config, tokens, **told)
        hidden = jnp.where(told["mask"][..., None], hidden, 0.0).astype(jnp.float32)
        return jnp.sum(jnp.sin(hidden)), hidden

    with jax.set_mesh(mesh_of(1, 1, 1)):
        return jax.jit(jax.grad(loss, has_aux=True))(params)[::-1]


def padded_or_packed(packed):
    """What `hidden_states` is told of its rows."""
    if not packed:
        return {"mask": jnp.asarray(PADDED > 0)}
    starts = np.array([[np.argmax(row == segment) for segment in row] for row in SEGMENTS])
    positions = np.where(SEGMENTS > 0, np.arange(LENGTH) - starts, 0)
    told = {"mask": SEGMENTS > 0, "segment_ids": SEGMENTS, "positions": positions}
    return jax.tree.map(jnp.asarray, told)


def assert_as_plain(config, params, told, atol):
    hidden, grads = hidden_and_gradients(config, params, told)
    expected, expected_grads = hidden_and_gradients(dataclasses.replace(config, attention="plain"), params, told)
    np.testing.assert_allclose(hidden, expected, atol=atol)
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected_grads))
    for leaf, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(leaf, wanted, atol=atol * largest)


@cpu
@pytest.mark.slow
def test_a_model_with_all_that_families_have_is_the_same_with_splash(interpreted):
    """Softcap, another scale, norms of heads, and scanned layers with a window and without."""
    assert_as_plain(*stacked(EVERYTHING, make_params(EVERYTHING)), padded_or_packed(True), atol=5e-5)
    assert set(interpreted) == {0, 3}


ONE_LAYER = dataclasses.replace(CONFIG, num_layers=1)
WINDOWED = dataclasses.replace(CONFIG, layer_windows=(3, 0), scan_layers=False)


@cpu
@pytest.mark.parametrize("packed", [False, True])
def test_a_model_is_the_same_as_cudnn_is_called(like_cudnn, packed):
    """Only packed rows cost a mask; padded ones are moved so that causality is enough."""
    assert_as_plain(WINDOWED, make_params(WINDOWED), padded_or_packed(packed), atol=5e-5)
    assert set(like_cudnn) == ({(True, None)} if packed else {(False, (2, 0)), (False, None)})


def prefilled(config, params):
    """Hidden states at real tokens and the cache, of rows padded on the left and not at all."""
    mask = jnp.asarray(PADDED[[0, 3]] > 0)
    with jax.set_mesh(mesh_of(1, 1, 1)):
        # A new function each time, or jit would find the program of another way.
        run = jax.jit(lambda *args: transformer.prefill(params, config, *args))
        hidden, cache = run(make_tokens(*mask.shape), mask, empty_cache(config, 2, LENGTH + 4))
    return jnp.where(mask[..., None], hidden, 0.0), cache


@cpu
@pytest.mark.parametrize("way", ["interpreted", "like_cudnn"])
def test_prefill_is_the_same_and_fills_the_same_cache(request, way):
    params, used = make_params(ONE_LAYER), request.getfixturevalue(way)
    plain = prefilled(dataclasses.replace(ONE_LAYER, attention="plain"), params)
    chex.assert_trees_all_close(prefilled(ONE_LAYER, params), plain, atol=2e-5)
    assert used


def test_rows_are_moved_to_the_left_and_back():
    there, back = attention.to_the_left(jnp.asarray([[False, False, True, True], [True, True, False, False]]))
    rows = jnp.asarray([[7, 8, 1, 2], [3, 4, 5, 6]])
    moved = jnp.take_along_axis(rows, there, axis=1)
    np.testing.assert_array_equal(moved, [[1, 2, 7, 8], [3, 4, 5, 6]])
    np.testing.assert_array_equal(jnp.take_along_axis(moved, back, axis=1), rows)


HALF = {"dtype": "bfloat16"}


@pytest.mark.parametrize(
    "platform, changes, length, way, reason",
    [
        ("cpu", {}, 512, "plain", ""),
        ("cpu", {"attention": "splash"}, 512, "plain", "model.attention='splash' does not run on a cpu"),
        ("tpu", {}, 512, "splash", ""),
        ("tpu", {"attention": "plain"}, 512, "plain", ""),
        ("tpu", {"attention": "cudnn"}, 512, "plain", "model.attention='cudnn' does not run on a tpu"),
        ("tpu", {}, 127, "plain", ""),
        ("gpu", HALF, 512, "cudnn", ""),
        ("gpu", {}, 512, "plain", "cudnn computes in bfloat16 and model.dtype is float32"),
        ("gpu", {**HALF, "attn_softcap": 50.0}, 512, "plain", "cudnn has no softcap"),
        ("gpu", {**HALF, "head_dim": 256}, 512, "plain", "cudnn takes heads of a multiple of 8 up to 128, and"),
        ("gpu", {**HALF, "head_dim": 20}, 512, "plain", "cudnn takes heads of a multiple of 8 up to 128, and"),
    ],
)
def test_the_way_is_chosen_by_platform_and_model(monkeypatch, capsys, platform, changes, length, way, reason):
    attention._plain.cache_clear()
    monkeypatch.setattr(attention, "platform", lambda: platform)
    monkeypatch.setattr(attention, "compute_capability", lambda: 9.0)
    config = dataclasses.replace(CONFIG, **changes)
    with jax.set_mesh(mesh_of(1, 1, 1)):
        assert attention.choose(config, length) == attention.choose(config, length) == way
    said = capsys.readouterr().out
    assert said.startswith(f"attention: plain, because {reason}") if reason else not said
    assert said.count("\n") == bool(reason), "said once"


@cpu
def test_a_gpu_without_bfloat16_attends_plainly(monkeypatch, capsys):
    attention._plain.cache_clear()
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    with jax.set_mesh(mesh_of(1, 1, 1)):
        assert attention.choose(dataclasses.replace(CONFIG, **HALF), 512) == "plain"
    assert "cudnn needs an NVIDIA GPU of compute capability 8.0" in capsys.readouterr().out


def test_without_a_mesh_several_devices_attend_plainly(monkeypatch, capsys):
    attention._plain.cache_clear()
    monkeypatch.setattr(attention, "platform", lambda: "tpu")
    assert attention.choose(CONFIG, 512) == ("splash" if jax.device_count() == 1 else "plain")
    assert jax.device_count() == 1 or "splash needs a mesh of the axes data, fsdp, tensor" in capsys.readouterr().out


@cpu
def test_a_device_with_a_part_of_its_own_needs_no_mesh(monkeypatch):
    ways = []
    note = lambda x: ways.append(attention.choose(CONFIG, 512)) or x
    monkeypatch.setattr(attention, "platform", lambda: "tpu")
    jax.pmap(note)(jnp.zeros((8, 1)))
    with jax.set_mesh(mesh_of(8, 1, 1)):
        jax.shard_map(note, in_specs=P("data"), out_specs=P("data"))(jnp.zeros((8, 1)))
    assert len(ways) >= 2 and set(ways) == {"splash"}


def test_an_unknown_way_is_refused():
    with pytest.raises(UserError, match="model.attention='flash'; expected one of 'auto', 'plain', 'splash', 'cudnn'"):
        dataclasses.replace(CONFIG, attention="flash")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, of the extra `tpu`")
@pytest.mark.parametrize("chip", ["v4", "v5e", "v5p", "v6e"])
def test_the_compiler_for_tpus_takes_an_update_with_splash(chip):
    """Heads of 64, a window, a softcap, rows and heads split over four chips: in a process that has the compiler."""
    command = [sys.executable, "-m", "benchmarks.attention_aot", "--quick", "--ways=auto", f"--chips={chip}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["chip"], result["chips"], result["attention"]) == (chip, 4, "splash")


gpu = pytest.mark.skipif(BACKEND != "gpu", reason="needs an NVIDIA GPU and JAX_PLATFORMS=cuda")


def as_near(got, plain, exact):
    """No leaf is more than twice as far from the exact one as the plain way in the same dtype is."""
    rms = lambda tree: [
        float(jnp.sqrt(jnp.mean(jnp.square(a.astype(jnp.float32) - b))))
        for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(exact), strict=True)
    ]
    chex.assert_tree_all_finite(got)
    for error, allowed in zip(rms(got), rms(plain), strict=True):
        assert error < 2.0 * allowed + 1e-6


@gpu
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("windows", [(), (16, 16), (16, 0)])
@pytest.mark.parametrize("kv_heads, width", [(4, 64), (2, 128)])
def test_cudnn_is_as_near_to_float32_as_plain_is(packed, windows, kv_heads, width):
    config = dataclasses.replace(CONFIG, num_kv_heads=kv_heads, head_dim=width, layer_windows=windows)
    told, (config, params) = padded_or_packed(packed), stacked(config, make_params(config))
    half = dataclasses.replace(config, dtype="bfloat16")
    with jax.default_matmul_precision("float32"):
        exact = hidden_and_gradients(config, params, told)
    with jax.set_mesh(mesh_of(1, 1, 1)):
        assert attention.choose(half, LENGTH) == "cudnn"
    plain = hidden_and_gradients(dataclasses.replace(half, attention="plain"), params, told)
    as_near(hidden_and_gradients(half, params, told), plain, exact)


@gpu
def test_cudnn_prefills_as_near_to_float32_as_plain_does():
    config = dataclasses.replace(ONE_LAYER, head_dim=64)
    params, half = make_params(config), dataclasses.replace(config, dtype="bfloat16")
    with jax.default_matmul_precision("float32"):
        exact = prefilled(config, params)
    as_near(prefilled(half, params), prefilled(dataclasses.replace(half, attention="plain"), params), exact)
