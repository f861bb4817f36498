"""Checkpoints: bit-exact, readable errors, and a killed run loses nothing that was finished."""

import gc
import os
import pathlib
import subprocess
import sys
import threading
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from icegrt_jax.errors import UserError
from icegrt_jax.training.checkpoints import Checkpoints, abstract_like
from icegrt_jax.training.finite import TrainingError


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: Any
    kl: Any
    key: jax.Array


def make_state(seed: int = 0) -> State:
    w = jax.random.normal(jax.random.key(seed), (8, 4))
    params = {"policy": {"w": w, "half": w.astype(jnp.bfloat16)}, "value": {"w": -w}, "none": None}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    # One update, so that the moments are not all zero.
    _, opt_state = tx.update(params, tx.init(params), params)
    return State(jnp.int32(7), params, opt_state, None, jax.random.key(seed + 1))


def bits(x: jax.Array) -> bytes:
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x).tobytes()


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert (x.dtype, x.shape, bits(x)) == (y.dtype, y.shape, bits(y))


def test_a_state_comes_back_bit_for_bit(tmp_path):
    state = make_state()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, {"data": {"position": 3}})
    checkpoints = Checkpoints(tmp_path)
    restored = checkpoints.restore(abstract_like(make_state(seed=5)))
    assert_same_bits(restored, state)
    assert jax.random.normal(restored.key) == jax.random.normal(state.key)
    assert checkpoints.metadata() == {"data": {"position": 3}}


def test_arrays_come_back_where_the_abstract_tree_says(tmp_path):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())
    tree = {"w": jax.device_put(jnp.arange(16.0).reshape(8, 2), split), "key": jax.random.key(3)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree)
        wanted = {
            "w": jax.ShapeDtypeStruct((8, 2), jnp.float32, sharding=whole),
            "key": jax.ShapeDtypeStruct((), tree["key"].dtype, sharding=whole),
        }
        restored = checkpoints.restore(wanted)
        same = checkpoints.restore(abstract_like(tree))
    assert_same_bits(restored, tree)
    assert restored["w"].sharding == whole and restored["key"].sharding == whole
    assert same["w"].sharding == split


def test_the_next_update_may_donate_what_is_being_saved(tmp_path):
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            x = jax.block_until_ready(jnp.full((500, 500), float(step)))
            abstract = abstract_like(x)
            checkpoints.save(step, {"x": x})
            jax.block_until_ready(overwrite(x))
            checkpoints.wait()
            assert (checkpoints.restore({"x": abstract})["x"] == step).all()


def test_only_the_last_ones_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 10):
            checkpoints.save(step, {"x": jnp.full(3, float(step))})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 10]
        assert checkpoints.latest() == 10
        assert checkpoints.restore({"x": jax.ShapeDtypeStruct((3,), jnp.float32)}, step=2)["x"][0] == 2


def test_a_step_is_saved_once(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.float32(1)})
        checkpoints.save(1, {"x": jnp.float32(2)})
        checkpoints.wait()
        assert checkpoints.restore({"x": jax.ShapeDtypeStruct((), jnp.float32)})["x"] == 1


def held() -> tuple[int, int]:
    """Open descriptors and running threads of this process."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def test_descriptors_and_threads_do_not_grow_over_50_saves(tmp_path):
    before, seen = held(), []
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(1, 51):
            checkpoints.save(step, {"x": jnp.float32(step)})
            if step % 5 == 0:  # while one is under way there are a few more
                checkpoints.wait()
                seen.append(held())
    assert seen[-1][0] <= seen[0][0] and seen[-1][1] <= seen[0][1], seen
    after = held()
    assert after[0] <= before[0] + 3 and after[1] <= before[1] + 3, "what Orbax keeps for the process, at most"


def test_stages_that_open_read_and_close_checkpoints_leave_nothing_open(tmp_path):
    seen = []
    for stage in range(12):
        with Checkpoints(tmp_path / str(stage)) as checkpoints:
            checkpoints.save(1, {"x": jnp.float32(1)}, {"position": 3})
            checkpoints.save(2, {"x": jnp.float32(2)})
        with Checkpoints(tmp_path / str(stage)) as checkpoints:
            checkpoints.restore({"x": jax.ShapeDtypeStruct((), jnp.float32)})
            checkpoints.metadata(1)
        seen.append(held())
    for which in zip(*seen, strict=True):
        assert max(which[6:]) <= max(which[:6]) + 2, seen  # threads that end may take their time


def test_a_save_that_fails_says_so_and_leaves_the_one_before(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": jnp.float32(1)})
    checkpoints.wait()
    with monkeypatch.context() as broken:
        broken.setattr(os, "rename", no_space)
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(2, {"x": jnp.float32(2)})
            checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [1]


def no_space(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("where", ["params", "optimizer", "other"])
def test_a_state_that_is_not_finite_is_never_saved_and_the_last_good_one_stays(tmp_path, where):
    state = make_state()
    value = {"w": state.params["value"]["w"].at[7, 3].set(jnp.nan)}
    bad = {
        "params": state.replace(params=state.params | {"value": value}),
        "optimizer": state.replace(opt_state=jax.tree.map(lambda x: x * jnp.inf, state.opt_state)),
        "other": state.replace(kl=jnp.float32(-jnp.inf)),
    }[where]
    with Checkpoints(tmp_path / "ppo" / "checkpoints", keep=1) as checkpoints:
        with pytest.raises(TrainingError, match="Step 3: not finite: .* No step has been saved; the same command"):
            checkpoints.save(3, bad)
        checkpoints.save(4, state)
        with pytest.raises(TrainingError) as error:
            checkpoints.save(5, bad)
        assert checkpoints.steps() == [4]
        assert_same_bits(checkpoints.restore(abstract_like(state)), state)
    text = str(error.value)
    assert "Step 4, the last one saved, is finite and kept; the same command comes here again." in text
    assert f"with {tmp_path / 'ppo'} deleted, ppo begins anew and may have other values." in text


def test_a_part_can_be_read_alone(tmp_path):
    state = make_state()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state)
    wanted = {"params": {"policy": abstract_like(state.params["policy"])}}
    restored = Checkpoints(tmp_path).restore(wanted, partial=True)
    assert_same_bits(restored, {"params": {"policy": state.params["policy"]}})


def test_reading_makes_no_folder(tmp_path):
    checkpoints = Checkpoints(tmp_path / "sft" / "checkpoints")
    assert checkpoints.latest() is None
    with pytest.raises(UserError, match="run the stage that writes it"):
        checkpoints.restore({})
    assert not (tmp_path / "sft").exists()


def test_a_step_that_is_not_there_is_named_beside_those_that_are(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, {"x": jnp.zeros(1)})
    with pytest.raises(UserError, match=r"step 5 .* there are \[4\]"):
        checkpoints.metadata(5)


@pytest.fixture
def stored(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"policy": {"w": jnp.zeros((8, 4)), "b": jnp.zeros(4)}, "step": jnp.int32(1)})
    return checkpoints


def like(shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_another_shape_is_named_with_both(stored):
    wanted = {"policy": {"w": like((16, 4)), "b": like((4,))}, "step": like((), jnp.int32)}
    with pytest.raises(UserError, match=r"policy/w is stored as float32\[8, 4\], wanted float32\[16, 4\]"):
        stored.restore(wanted)


def test_another_dtype_is_named(stored):
    wanted = {"policy": {"w": like((8, 4)), "b": like((4,))}, "step": like(())}
    with pytest.raises(UserError, match=r"step is stored as int32\[\], wanted float32\[\]"):
        stored.restore(wanted)


def test_missing_and_extra_leaves_are_named(stored):
    wanted = {"policy": {"w": like((8, 4)), "bias": like((4,))}, "step": like((), jnp.int32)}
    with pytest.raises(UserError, match=r"policy/b is stored but not wanted; policy/bias is not stored"):
        stored.restore(wanted)


def test_a_part_that_is_not_stored_is_named(stored):
    with pytest.raises(UserError, match="value/w is not stored"):
        stored.restore({"value": {"w": like((8, 4))}}, partial=True)


def test_many_differences_are_counted_not_listed(stored):
    with pytest.raises(UserError, match="and 15 more"):
        stored.restore({f"x{i:02}": like(()) for i in range(20)})


def test_leftovers_of_a_killed_save_are_no_checkpoint_and_are_removed(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.float32(1)})
    leftover = tmp_path / "2.orbax-checkpoint-tmp"
    (leftover / "state").mkdir(parents=True)
    (leftover / "state" / "manifest.ocdbt").write_bytes(b"half")
    (tmp_path / "0").mkdir()  # an old checkpoint whose deletion was cut short
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
        checkpoints.save(2, {"x": jnp.float32(2)})
        checkpoints.wait()
        assert checkpoints.restore({"x": like(())})["x"] == 2
    assert not leftover.exists()


KILLED = """
import os, signal, sys, time
import jax.numpy as jnp
from icegrt_jax.training.checkpoints import Checkpoints

checkpoints = Checkpoints(sys.argv[1], keep=1)
tree = {str(i): jnp.full((512, 512), 1.0) for i in range(16)}
checkpoints.save(1, tree)
checkpoints.wait()
checkpoints.save(2, tree)
time.sleep(0.02)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_killed_while_saving_leaves_a_checkpoint_to_go_on_from(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": str(root)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=env, capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()
    abstract = {str(i): like((512, 512)) for i in range(16)}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.latest() in (1, 2)
        restored = checkpoints.restore(abstract)
        assert all((x == 1.0).all() for x in restored.values())
        checkpoints.save(3, restored)
        checkpoints.wait()
        assert checkpoints.steps() == [3]


def test_a_checkpoint_leaves_nothing_of_jax_behind(tmp_path):
    of_jax = lambda: sum(repr(type(x)).startswith(("<class 'jax.", "<class 'jaxlib.")) for x in gc.get_objects())
    state, kept = make_state(), []
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(1, 9):
            checkpoints.save(step, state)
            checkpoints.wait()
            gc.collect()
            kept.append(of_jax())
    assert kept[2:] == [kept[2]] * 6
