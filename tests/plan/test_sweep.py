"""Which meshes and rematerialisations fit and are fastest, with a stand-in for the compiler."""

import dataclasses

from icegrt_jax.commands.planned import Planned
from icegrt_jax.config import read
from icegrt_jax.config.choices import REMATS
from icegrt_jax.plan import plan, sweep
from icegrt_jax.plan.compiled import Compiled, Part
from icegrt_jax.plan.topology import parse_topology
from tests.plan.examples import MEMORY, tiny

CONFIG = tiny(**{"reward.steps": 0, "ppo.iterations": 0})


def target(memory):
    """Eight chips whose figures are known, of so much memory."""
    return dataclasses.replace(
        plan.make_target(parse_topology("cpu:8")), topology=parse_topology("v5e:2x4"), memory=memory
    )


def tried(config, values, where):
    return sweep.trial(Planned(read(config), where, 4), values, where)


def test_a_sweep_tries_every_mesh_and_names_the_fastest(monkeypatch):
    seconds = {1: 3.0, 2: 1.0, 4: 2.0, 8: 4.0}

    def compile_program(self, program):
        shape = program.params["params"]["policy"]["embed"]["embedding"].sharding.mesh.shape
        flops = 197e12 * seconds[shape["tensor"]] + shape["data"]
        return Compiled(0.0, MEMORY, {"": Part(flops, 0.0, {}, 0.0, [])}, [])

    monkeypatch.setattr(plan.Target, "compile", compile_program)
    trials = [tried(CONFIG, values, target(1e12)) for values in sweep.ways(8)]
    assert len(trials) == 10 * len(REMATS) and all(trial.fits for trial in trials)
    assert sweep.best(trials).values["mesh.tensor"] == 2 and sweep.best(trials).values["mesh.data"] == 1
    assert sweep.best(trials).mesh == "1x4x2" and sweep.best([]) is None


def test_a_state_that_is_too_large_is_not_compiled(monkeypatch):
    monkeypatch.setattr(plan.Target, "compile", None)
    (values, *_) = sweep.ways(8)
    trial = tried(CONFIG, values, target(1e3))
    assert trial.fits is False and trial.peak > 1e3 and trial.reason == "sft update does not fit"


def test_a_mesh_over_which_a_batch_does_not_divide_has_the_reason():
    config = tiny(**{"reward.steps": 0, "ppo.iterations": 0, "sft.batch_size": 4})
    trial = tried(config, {"mesh.data": 1, "mesh.fsdp": 8, "mesh.tensor": 1}, target(1e12))
    assert trial.fits is False and trial.reason.startswith("sft.batch_size=4 does not divide over 8 devices")
