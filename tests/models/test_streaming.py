"""What is on the host while a model is read or written: one part of one tensor, whatever the layout."""

import dataclasses
import functools
import gc
import math
import tracemalloc
import weakref

import chex
import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from icegrt_jax.models import streaming
from icegrt_jax.models.hf import safetensors_file
from icegrt_jax.models.hf.folder import load_hf, save_hf
from icegrt_jax.sharding.mesh import make_mesh
from icegrt_jax.sharding.rules import tree_shardings
from tests.models.examples import CONFIG, make_params, stacked

WIDE = dataclasses.replace(CONFIG, vocab_size=2048, d_model=256, num_layers=4, d_ff=1024, head_dim=64)


@pytest.fixture
def parts(monkeypatch):
    """Weak references to the memory of every part, none of which is aligned so that it could become a device array."""
    made = []

    def new_part(shape, dtype):
        memory = np.empty(math.prod(shape) * np.dtype(dtype).itemsize + 128, np.uint8)
        start = -memory.ctypes.data % 64 + 16
        made.append(weakref.ref(memory))
        return memory[start : start + len(memory) - 128].view(dtype).reshape(shape)

    monkeypatch.setattr(streaming, "new_part", new_part)
    return made


@pytest.mark.parametrize("axes, count", [(("fsdp", "tensor"), 8), (("tensor", None), 2), ((), 1)])
@pytest.mark.parametrize("is_stack", [False, True], ids=["tensor", "stack"])
def test_one_part_is_alive_at_a_time_and_each_is_read_once(parts, axes, count, is_stack):
    array = np.random.default_rng(0).normal(size=(3, 64, 32)).astype(np.float32)
    mesh, alive = make_mesh(1, 4, 2), []

    def fill(i, index, out):
        alive.append(sum(part() is not None for part in parts))
        assert out.nbytes == array[0].nbytes // count
        out[...] = array[i][index]

    if is_stack:
        expected, sharding = array, NamedSharding(mesh, P(None, *axes))
        placed = streaming.place_stack(array.shape, "float32", sharding, fill)
    else:
        expected, sharding = array[0], NamedSharding(mesh, P(*axes))
        placed = streaming.place(array[0].shape, "float32", sharding, functools.partial(fill, 0))
    assert alive == [1] * count * (3 if is_stack else 1)
    np.testing.assert_array_equal(placed, expected)
    assert placed.sharding.is_equivalent_to(sharding, placed.ndim)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("block", [1, 100, 2**24])
def test_a_part_is_read_in_blocks_and_comes_out_whole(tmp_path, monkeypatch, transposed, block):
    monkeypatch.setattr(streaming, "BLOCK_BYTES", block)
    array = np.arange(60, dtype=np.float32).reshape(12, 5)
    save_file({"x": array}, tmp_path / "x.safetensors")
    expected = array.T if transposed else array
    with safe_open(tmp_path / "x.safetensors", framework="numpy") as file:
        for index in [(slice(None), slice(None)), (slice(1, 4), slice(2, 5))]:
            part = np.zeros(expected[index].shape, np.float16)
            streaming.read_part(file.get_slice("x"), index, part, transposed=transposed)
            np.testing.assert_array_equal(part, expected[index])


@pytest.mark.parametrize("scan_layers", [False, True], ids=["unrolled", "scanned"])
def test_the_host_peak_of_an_import_is_one_part_and_one_block(tmp_path, monkeypatch, parts, scan_layers):
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 2**16)
    save_hf(tmp_path / "model", WIDE, make_params(WIDE), None)
    mesh = make_mesh(1, 4, 2)
    load = lambda: load_hf(
        tmp_path / "model", scan_layers=scan_layers, shardings=lambda tree: tree_shardings(tree, mesh)
    )
    load()  # compiles
    gc.collect()
    tracemalloc.start()  # NumPy's arrays and what safetensors hands over; device arrays are not counted
    try:
        _, params = load()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    largest = max(4 * leaf.shape[-1] * leaf.shape[-2] for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
    assert largest == 4 * WIDE.vocab_size * WIDE.d_model
    # An eighth of the largest tensor and some blocks; the rest is Python's own: paths, shapes, handles.
    assert peak < largest / 8 + 4 * 2**16 + 4e5, f"{peak} bytes at the peak"
    assert peak < largest / 2


def test_an_export_in_several_files_has_an_index_and_holds_one_tensor_at_a_time(tmp_path, monkeypatch):
    config, params = stacked(WIDE, make_params(WIDE))
    alive = []
    write = safetensors_file.write

    def counting(path, specs, read):
        def once(name):
            gc.collect(0)
            assert not [ref for ref in alive if ref() is not None], "the tensor before is still there"
            part = read(name)
            alive.append(weakref.ref(part))
            return part

        write(path, specs, once)

    monkeypatch.setattr(safetensors_file, "write", counting)
    limit = 3 * 2**20
    save_hf(tmp_path / "model", config, params, None, max_shard_bytes=limit)
    monkeypatch.undo()
    files = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(files) > 3 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    for file in files:
        tensors = load_file(file)
        assert len(tensors) == 1 or sum(x.nbytes for x in tensors.values()) <= limit
    assert len(alive) == sum(len(load_file(file)) for file in files)
    chex.assert_trees_all_equal(load_hf(tmp_path / "model", scan_layers=True)[1], params)
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    _, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    # A smaller export in its place leaves no old file behind.
    save_hf(tmp_path / "model", config, params, None)
    assert sorted(x.name for x in (tmp_path / "model").glob("model*")) == ["model.safetensors"]


def test_the_written_format_is_the_librarys(tmp_path):
    arrays = {"b": np.arange(6, dtype=np.float16).reshape(2, 3), "a": np.ones((3,), np.float16)}
    specs = {name: safetensors_file.Spec(x.shape, "float16") for name, x in arrays.items()}
    safetensors_file.write(tmp_path / "ours.safetensors", specs, arrays.get)
    chex.assert_trees_all_equal(load_file(tmp_path / "ours.safetensors"), arrays)
    assert [spec.size for spec in specs.values()] == [x.nbytes for x in arrays.values()]
