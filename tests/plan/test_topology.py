"""Topologies by name, the environment that keeps jax from looking for hardware, and the devices of a slice."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from icegrt_jax.errors import UserError
from icegrt_jax.plan.chips import CHIPS, GIB
from icegrt_jax.plan.topology import KINDS, Topology, devices, environment, parse_topology

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason='libtpu is not installed: pip install "icegrt_jax[tpu]"'
)


@pytest.mark.parametrize(
    "text, slices, chips, shown",
    [
        ("v5e:1x1", 1, 1, "v5e:1x1"), ("v5e:2x4", 2, 16, "2 x v5e:2x4"), ("v4:2x2x4", 1, 16, "v4:2x2x4"),
        ("v5p:4x4x4", 1, 64, "v5p:4x4x4"), ("v6e:16x16", 1, 256, "v6e:16x16"), ("cpu:8", 1, 8, "cpu:8"),
    ],
)  # fmt: skip
def test_a_topology_is_its_chips(text, slices, chips, shown):
    topology = parse_topology(text, slices)
    assert (topology.chips, str(topology)) == (chips, shown)


@pytest.mark.parametrize(
    "text, slices, message",
    [
        ("v5e", 1, "--topology=v5e; expected something like v5e:2x4"),
        ("v7:2x2", 1, "--topology=v7:2x2; expected something like"),
        ("v5e:2x", 1, "--topology=v5e:2x; expected something like"),
        ("v5p:4x4", 1, "--topology=v5p:4x4: a v5p slice has 3 axes of 1 or more"),
        ("v5e:0x4", 1, "--topology=v5e:0x4: a v5e slice has 2 axes of 1 or more"),
        ("cpu:8", 2, "--slices=2: simulated CPU devices are one slice; leave it out."),
    ],
)
def test_another_name_is_refused_with_what_is_expected(text, slices, message):
    with pytest.raises(UserError) as refused:
        parse_topology(text, slices)
    assert str(refused.value).startswith(message)


def test_every_kind_has_published_figures():
    assert set(CHIPS) == set(KINDS)
    for name, chip in CHIPS.items():
        assert chip.name == name and all(source.startswith("https://") for source in chip.sources)
        assert 100e12 < chip.flops < 1e15 and 15 * GIB < chip.hbm < 96 * GIB and chip.hbm_bandwidth < 3e12
        assert chip.dcn_bandwidth < chip.ici_bandwidth < chip.hbm_bandwidth


def test_the_environment_never_looks_for_hardware(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3 --xla_other=1")
    assert environment(Topology("v5e", (2, 4)))["TPU_SKIP_MDS_QUERY"] == "1"
    found = environment(Topology("cpu", (16,)))
    assert found["JAX_PLATFORMS"] == "cpu"
    assert found["XLA_FLAGS"].split() == ["--xla_other=1", "--xla_force_host_platform_device_count=16"]


def test_more_simulated_devices_than_jax_has_started_with_are_refused():
    assert len(devices(Topology("cpu", (8,)))) == 8
    with pytest.raises(UserError, match="jax has started with 8 simulated devices; start a new process"):
        devices(Topology("cpu", (512,)))


DEVICES = """
import json, sys
from icegrt_jax.plan.topology import devices, parse_topology, prepare
topology = parse_topology(sys.argv[1], int(sys.argv[2]))
prepare(topology)
from icegrt_jax.sharding.mesh import make_mesh
mesh = make_mesh(data=-1, fsdp=int(sys.argv[3]), tensor=int(sys.argv[4]), devices=devices(topology))
slices = [[getattr(device, "slice_index", 0) for device in row.ravel()] for row in mesh.devices]
print(json.dumps({"platform": mesh.devices.flat[0].platform, "shape": list(mesh.shape.values()), "slices": slices}))
"""


def planned_devices(name, slices, fsdp="2", tensor="1"):
    environ = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    command = [sys.executable, "-c", DEVICES, name, slices, fsdp, tensor]
    run = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_as_many_cpu_devices_as_the_topology_says_are_simulated():
    assert planned_devices("cpu:12", "1")["shape"] == [6, 2, 1]


@needs_libtpu
@pytest.mark.parametrize("name, shape", [("v4:2x2x2", [4, 2, 1]), ("v5p:2x2x1", [2, 2, 1]), ("v6e:2x4", [4, 2, 1])])
def test_a_slice_has_one_device_a_chip_and_no_hardware(name, shape):
    found = planned_devices(name, "1")
    assert found["platform"] == "tpu" and found["shape"] == shape


@needs_libtpu
def test_an_axis_of_the_mesh_may_take_a_part_of_an_axis_of_the_slice():
    assert planned_devices("v5p:4x4x4", "1", "32", "2")["shape"] == [1, 32, 2]


@needs_libtpu
def test_over_several_slices_the_data_axis_goes_from_slice_to_slice():
    assert planned_devices("v5e:2x2", "2") == {
        "platform": "tpu", "shape": [4, 2, 1], "slices": [[0, 0], [0, 0], [1, 1], [1, 1]],
    }  # fmt: skip
