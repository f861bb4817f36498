"""The largest batch that fits, with a stand-in for the compiler that counts what it is asked for."""

import dataclasses

import pytest

from icegrt_jax.commands.planned import Planned
from icegrt_jax.config import read
from icegrt_jax.plan import plan, report, search
from icegrt_jax.plan.compiled import Compiled
from icegrt_jax.plan.topology import parse_topology
from tests.plan.examples import MEMORY, tiny

SFT = tiny(**{"reward.steps": 0, "ppo.iterations": 0})
PPO = tiny(**{"sft.steps": 0, "reward.steps": 0, "ppo.ptx.coef": 0.5, "ppo.ptx.batch_size": 16})
PPO.ppo.ptx.sources.mine, PPO.ppo.ptx.weights.mine = "jsonl:mine.jsonl", 1.0
PPO_ROWS = {"rollout": 60, "first check": 5, "score": 10, "ppo update": 100}


class Compiler:
    """Temporaries are `constant` and `per_row[program]` for each row, and bend upwards by `bend`, in kB. The
    compiler gives up above `allowed`. `asked`: (program, rows) of all that was compiled."""

    def __init__(self, monkeypatch, config, per_row, *, constant=0, bend=0.0, allowed=None):
        self.config, self.per_row, self.constant, self.bend, self.allowed = config, per_row, constant, bend, allowed
        self.target, self.asked = plan.make_target(parse_topology("cpu:8")), []
        monkeypatch.setattr(plan.Target, "compile", lambda _, program: self.compile(program))

    def compile(self, program):
        self.asked.append((program.name, program.rows))
        rows = program.rows
        temporaries = 1000 * (self.constant + self.per_row.get(program.name, 0) * rows) + int(
            1000 * self.bend * rows**2
        )
        if self.allowed is not None and temporaries > 1000 * self.allowed:
            return Compiled(0.0, {"needed": MEMORY["arguments"] + temporaries}, {}, [])
        return Compiled(0.0, {**MEMORY, "temporaries": temporaries}, {}, [])

    def largest(self, free):
        """With so many kB of a chip left for temporaries, beside all that the plan's programs keep and MARGIN."""
        run = Planned(read(self.config), self.target, 4)
        mesh, programs = run.programs({})
        programs = [program for program in programs if program.batch_key]
        rows = [plan.plan_row(program, mesh, self.target) for program in programs]
        memory = (max(row.resident for row in rows) + 1000 * free) / (1 - search.MARGIN)
        target = dataclasses.replace(self.target, memory=memory)
        rows = [dataclasses.replace(row, fits=target.fits(row.peak)) for row in rows]
        self.asked.clear()
        self.said = []
        return search.largest_batch(run, target, rows, self.said.append)


@pytest.mark.parametrize("free, largest", [(900, 0), (3_000, 16), (3_900, 24), (10_000, 88), (13_799, 120)])
def test_the_line_through_one_more_batch_is_confirmed_by_a_second(free, largest, monkeypatch):
    compiler = Compiler(monkeypatch, SFT, {"sft update": 100}, constant=1_000)
    found = compiler.largest(free)
    assert found.value == largest
    assert len(compiler.asked) <= 2 and len(set(compiler.asked)) == len(compiler.asked)
    if largest and largest != 16:  # of the config, which the plan has compiled
        assert ("sft update", largest) in compiler.asked


def test_a_line_without_a_constant_needs_one_compilation(monkeypatch):
    compiler = Compiler(monkeypatch, SFT, {"sft update": 100})
    assert compiler.largest(11_000).value == 104
    assert len(compiler.asked) == 1


def test_where_the_line_is_wrong_the_answer_is_what_was_seen_to_fit(monkeypatch):
    compiler = Compiler(monkeypatch, SFT, {"sft update": 100}, constant=10_000, bend=1.0)
    found = compiler.largest(22_000)
    (_, probe), (_, confirming) = compiler.asked
    assert (found.value, found.refused, found.program) == (probe, confirming, "sft update")
    assert f"seen to fit: {probe}; with {confirming}, sft update does not." in report.summary([], {}, [found])


def test_a_batch_that_does_not_fit_is_searched_below(monkeypatch):
    config = tiny(**{"reward.steps": 0, "ppo.iterations": 0, "sft.batch_size": 512})
    compiler = Compiler(monkeypatch, config, {"sft update": 100}, constant=1_000, allowed=21_000)
    found = compiler.largest(20_000)
    assert found == search.Largest("sft.batch_size", 192, "sft update") and len(compiler.asked) <= 2
    assert "fits: 192; by its bytes per row more would leave sft update less" in report.summary([], {}, [found])


def test_without_a_batch_that_fits_the_smallest_is_named(monkeypatch):
    compiler = Compiler(monkeypatch, SFT, {"sft update": 100}, constant=1_000)
    found = compiler.largest(500)
    assert (found.value, found.refused) == (0, 8)
    assert report.summary([], {}, [found]).startswith("No sft.batch_size fits: 8 is too much with sft update.")


def test_what_stays_on_a_chip_may_be_too_much_already(monkeypatch):
    compiler = Compiler(monkeypatch, SFT, {"sft update": 100})
    found = compiler.largest(-1_000)
    assert found == search.Largest("sft.batch_size", 0, "sft update") and compiler.asked == []


def test_memory_that_does_not_grow_ends_the_search_at_its_end(monkeypatch):
    compiler = Compiler(monkeypatch, SFT, {}, constant=1_000)
    found = compiler.largest(2_000)
    assert found == search.Largest("sft.batch_size", 16 * search.MOST)
    assert len(compiler.asked) <= 2
    assert f"Largest sft.batch_size tried: {16 * search.MOST}, which fits." in report.summary([], {}, [found])


def test_all_programs_of_a_key_are_compiled_with_the_batch_that_is_named(monkeypatch):
    compiler = Compiler(monkeypatch, PPO, PPO_ROWS, constant=1_000)
    found = compiler.largest(11_500)
    assert (found.key, found.value, found.program) == ("ppo.batch_size", 104, "ppo update")
    assert compiler.asked[2:] == [(name, 104) for name in ("score", "first check", "rollout")]
    assert compiler.said[-1] == "rollout with ppo.batch_size=104"


def test_a_program_that_the_batch_of_the_others_does_not_fit_makes_it_smaller(monkeypatch):
    compiler = Compiler(monkeypatch, PPO, {**PPO_ROWS, "rollout": 200}, constant=1_000)
    found = compiler.largest(11_500)
    assert (found.value, found.program) == (48, "rollout")
    assert [rows for name, rows in compiler.asked if name == "rollout"] == [104, 48]
    assert len(compiler.asked) == 6


def batches_of(config):
    run = Planned(read(config), plan.make_target(parse_topology("cpu:8")), 4)
    return search.Batches(run, run.mesh, "ppo.batch_size")


def test_batches_are_what_the_checks_of_a_run_allow():
    batches = batches_of(PPO)
    with_replay = [batches.nearest(wanted, above=0, upto=64) for wanted in (0, 23, 24, 63.9, float("inf"))]
    assert with_replay == [8, 16, 24, 56, 64]
    halves = tiny(**{"ppo.num_minibatches": 2})
    assert batches_of(halves).nearest(31, above=0, upto=64) == 16
    assert batches.nearest(40, above=40, upto=47) is None
    assert batches.nearest(8, above=40, upto=64) == 48
    assert batches.values(48) == {"ppo.batch_size": 48, "ppo.ptx.batch_size": 3 * PPO.ppo.ptx.batch_size}
