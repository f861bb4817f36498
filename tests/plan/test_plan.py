"""From a config to a plan: programs compiled for simulated devices, what is reported, searched and refused."""

import dataclasses
import json
import math

import jax
import pytest

from icegrt_jax import cli
from icegrt_jax.commands.planned import Planned
from icegrt_jax.config import read
from icegrt_jax.plan import checks, estimate, plan, report
from icegrt_jax.plan.chips import CHIPS
from icegrt_jax.plan.compiled import Compiled, Part
from icegrt_jax.plan.program import Program
from icegrt_jax.plan.shapes import placed
from icegrt_jax.plan.topology import parse_topology
from icegrt_jax.sharding.mesh import make_mesh
from tests.plan.examples import ADAPTERS, MEMORY, models_of, tiny

EIGHT = parse_topology("cpu:8")


def write_config(path, **values):
    """A config file that returns `tiny`."""
    path.write_text(f"from tests.plan.examples import tiny\n\ndef get_config():\n    return tiny(**{values!r})\n")
    return f"--config={path}"


@pytest.fixture
def sft_only(tmp_path):
    return write_config(tmp_path / "sft.py", **{"reward.steps": 0, "ppo.iterations": 0})


def icegrt_plan(capsys, *flags):
    """Exit code and output of one command."""
    code = cli.main(["plan", "--topology=cpu:8", *flags])
    return code, capsys.readouterr()


def test_a_plan_says_bytes_and_costs_and_that_no_hardware_was_used(sft_only, tmp_path, capsys):
    flags = (sft_only, "--quick", f"--cache={tmp_path / 'cache'}")
    code, out = icegrt_plan(capsys, *flags)
    assert code == 0, out.err
    assert "cpu:8: 8 chips, mesh data 1, fsdp 8, tensor 1. Estimates only: compiled ahead of time" in out.out
    assert "| sft update | 16 " in out.out and "all-gather GB" in out.out and "Checks: no large" in out.out
    code, again = icegrt_plan(capsys, *flags, "--json", "--memory=1")
    found = json.loads(again.out)
    (program,) = found["programs"]
    assert code == 0 and found["fits"] is True and "no hardware" in found["notice"]
    assert program["parts"][""]["flops"] > 0 and program["memory"]["temporaries"] > 0
    (cached,) = (tmp_path / "cache").iterdir()
    assert json.loads(cached.read_text())["seconds"] == program["compile_seconds"], "compiled once"


@pytest.mark.parametrize("redraw, reads", [(0, []), (2, ["reward scores"])])
def test_where_prompts_are_drawn_anew_the_reward_model_reads_before_they_are_chosen(redraw, reads):
    groups = {"ppo.estimator": "grpo", "ppo.samples_per_prompt": 2, "ppo.kl.into": "loss", "ppo.kl.kind": "k3"}
    config = tiny(**groups, **{"ppo.filter_groups": True, "ppo.redraw": redraw})
    _, programs = Planned(read(config), plan.make_target(EIGHT), 4).all_programs()
    names = [program.name for program in programs]
    assert names[names.index("first check") + 1 : names.index("score")] == reads


def test_what_does_not_fit_is_said_and_the_exit_code_is_3(sft_only, tmp_path, capsys):
    code, out = icegrt_plan(capsys, sft_only, "--quick", "--memory=0.0001", "--cache=")
    assert code == 3 and "Does not fit: sft update needs" in out.out


def test_a_program_that_the_compiler_refuses_is_neither_costed_nor_checked():
    fine = plan.Row("sft update", "sft", "sft.batch_size", 16, 1, 100, MEMORY, 1115, True, {}, 2.0, 0, [], 1.0)
    large = dataclasses.replace(
        fine, name="reward update", memory={"needed": 2**31}, peak=2**31, fits=False, parts={}, seconds=0.0
    )
    both = report.summary([fine, large], {"sft": 2.0, "reward": 0.0, "run": 3600.0}, [])
    assert both.splitlines() == [
        "At least: a step of sft 2.00 s; the whole run 1.0 h, without reward update.",
        "Does not fit: reward update needs 2.00 GiB a chip.",
        "Checks: no large parameter is whole on every chip, no program holds the logits of its rows.",
        "Not checked, as the compiler refuses their size: reward update.",
    ]
    assert "Checks:" not in report.summary([large], {"reward": 0.0, "run": 0.0}, [])
    assert report.cost_table([large]) == "No costs: the compiler refuses the size of every program."


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--topology=v5e:2"], "error: --topology=v5e:2: a v5e slice has 2 axes"),
        (["--config.sft.batch_size=12"], "error: sft.batch_size=12 does not divide over 8 devices"),
        (["--config.sft.steps=0"], "error: no stage of this config has steps or iterations"),
        (["--slices=0"], "error: argument --slices: invalid positive int value: '0'"),
        (["--workdir=runs/x"], "error: unknown flag --workdir"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence_and_exit_code_2(sft_only, flags, message, capsys):
    code, out = icegrt_plan(capsys, sft_only, "--quick", "--cache=", *flags)
    assert code == 2 and out.err.splitlines()[-1].startswith(message)


def test_a_program_that_does_not_compile_is_named_with_the_reason():
    def fail():
        raise TypeError("dot_general requires contracting dimensions to have the same shape\nmore")

    target = plan.make_target(EIGHT)
    with pytest.raises(ValueError, match=r"score cannot be traced: TypeError: dot_general requires contracting"):
        target.compile(dataclasses.replace(PROGRAM, name="score", lower=fail))

    class Broken:
        def as_text(self):
            return ""

        def compile(self):
            raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no such operation\nstack")

    with pytest.raises(ValueError, match="score does not compile: JaxRuntimeError: UNIMPLEMENTED: no such operation"):
        target.compile(dataclasses.replace(PROGRAM, name="score", lower=Broken))


def test_a_program_too_large_for_the_compiler_is_one_that_does_not_fit():
    class TooLarge:
        def as_text(self):
            return ""

        def compile(self):
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (30.50G) "
                "exceeds available HBM (15.75G)."
            )

    compiled = plan.make_target(EIGHT).compile(dataclasses.replace(PROGRAM, lower=TooLarge))
    assert compiled.memory == {"needed": int(30.5 * 2**30)} and compiled.parts == {}
    assert estimate.peak_bytes(PROGRAM, compiled) == compiled.memory["needed"]


def test_a_roofline_is_the_slowest_of_three():
    part = Part(197e12, 819e9 * 2, {"all-gather": 100e9 * 0.5, "all-reduce": 0.0}, 3.125e9, [])
    found = estimate.roofline(part, CHIPS["v5e"])
    assert (found.compute, found.memory) == (1.0, 2.0) and found.bound == "memory" and found.seconds == 2.0
    # What leaves the slice goes through the slower network.
    assert math.isclose(found.network, (50e9 - 3.125e9) / 100e9 + 1.0)
    assert estimate.roofline(part, None).seconds == 0.0


PROGRAM = Program("sft update", "sft", "sft.batch_size", 16, lambda: None, (), {}, None, 16, 16)


def test_what_is_resident_counts_though_the_program_does_not_read_it():
    leaf = jax.ShapeDtypeStruct((64, 4), "float32", sharding=jax.NamedSharding(make_mesh(8), jax.P("data")))
    program = dataclasses.replace(PROGRAM, resident=[leaf] * 5)
    assert estimate.peak_bytes(program, Compiled(0.0, MEMORY, {}, [])) == 100 + (5 * 128 - 100) + 10 + 1000 + 5


def held(mesh, **leaves):
    return placed({"params": {"policy": {"attn": leaves}}}, mesh)


def test_what_should_not_be_there_is_found(monkeypatch):
    monkeypatch.setattr(checks, "CHUNK", 2**10)
    mesh = make_mesh(1, 4, 2)
    large = {"q": {"kernel": jax.ShapeDtypeStruct((8, 4096, 4096), "float32")}}
    whole = {"norm": {"scale": jax.ShapeDtypeStruct((4096, 4098), "float32")}}
    compiled = Compiled(0.0, MEMORY, {}, [["bf16", [8, 4096, 4096]], ["f32", [4096, 8192]], ["f32", [2, 512, 50]]])
    program = dataclasses.replace(PROGRAM, params=held(mesh, **large))
    assert checks.offenders(program, compiled, mesh) == [
        "params/policy/attn/q/kernel is gathered whole, as bf16[8, 4096, 4096]"
    ]
    program = dataclasses.replace(PROGRAM, params=held(mesh, **whole))
    assert checks.offenders(program, compiled, mesh) == [
        "params/policy/attn/norm/scale float32[4096, 4098] is whole on every chip"
    ]
    config = tiny(**{"tokenizer.vocab_size": 100})
    model = models_of(config).policy
    program = dataclasses.replace(PROGRAM, model=model, block=8, length=512)
    (found,) = checks.offenders(program, compiled, mesh)
    assert found == "f32[2, 512, 50] is as large as all logits of 2 rows of 512 tokens"
    assert checks.offenders(dataclasses.replace(program, length=1024), compiled, mesh) == []
    # A vocabulary that divides is split over fsdp as well, and a chip has its part of the logits of more rows.
    model = models_of(tiny(**{"tokenizer.vocab_size": 96})).policy
    compiled = dataclasses.replace(compiled, large=[["f32", [4, 1024, 12]], ["f32", [4, 512, 12]]])
    program = dataclasses.replace(program, model=model)
    assert checks.logits(program, compiled, mesh) == [
        "f32[4, 1024, 12] is as large as all logits of 8 rows of 512 tokens"
    ]


def test_a_weight_that_a_decode_step_sends_is_found():
    mesh = make_mesh(1, 4, 2)
    weights = held(mesh, q={"kernel": jax.ShapeDtypeStruct((8, 1024, 512), "bfloat16")})
    sent = lambda *dims: {"decode": Part(0.0, 0.0, {}, 0.0, [["all-gather", 9, 1.0, [list(dims)]]])}
    program = dataclasses.replace(PROGRAM, weights=weights)
    for dims in ((1, 256, 256), (256, 256), (1024, 512), (8, 256, 256)):
        (found,) = checks.moved(program, Compiled(0.0, MEMORY, sent(*dims), []))
        assert found == f"decoding sends params/policy/attn/q/kernel: all-gather of {list(dims)}"
    summed = {"decode": dataclasses.replace(sent(256, 256)["decode"], moves=[["all-reduce", 9, 1.0, [[256, 256]]]])}
    assert checks.moved(program, Compiled(0.0, MEMORY, summed, [])) == [], "a sum of activations"
    assert checks.moved(program, Compiled(0.0, MEMORY, sent(16, 1, 512), [])) == []


def test_a_reward_model_with_another_vocabulary_reads_text_in_programs_of_its_own(tmp_path):
    shape = {"architectures": ["LlamaForSequenceClassification"], "model_type": "llama", "vocab_size": 128,
             "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(shape))
    config = tiny(**{"reward.init": str(tmp_path), "value.init": "sft", "sft.steps": 0, "reward.steps": 0})
    mesh, programs = Planned(read(config), plan.make_target(EIGHT), 4).programs({})
    assert [program.name for program in programs] == [
        "to rollout", "rollout", "first check", "read roles", "read texts", "score", "ppo update",
    ]  # fmt: skip
    same = Planned(read(tiny(**{"sft.steps": 0, "reward.steps": 0})), plan.make_target(EIGHT), 4).programs({})[1]
    assert not {"read roles", "read texts"} & {program.name for program in same}


def test_reward_functions_are_given_what_the_roles_read_beside_a_model_and_alone():
    own = {"ppo.rewards.right": "own.py:right", "sft.steps": 0, "reward.steps": 0}
    for model in ({"ppo.reward_weights.model": 1.0}, {"value.init": "sft"}):
        programs = Planned(read(tiny(**own, **model)), plan.make_target(EIGHT), 4).programs({})[1]
        names = [program.name for program in programs]
        assert names == ["to rollout", "rollout", "first check", "read roles", "score", "ppo update"]


def test_what_scores_the_reference_answers_is_planned():
    values = {"sft.steps": 0, "reward.steps": 0, "ppo.score.baseline": "reference", "ppo.score.scale": "none"}
    programs = Planned(read(tiny(**values)), plan.make_target(EIGHT), 4).programs({})[1]
    assert [program.name for program in programs][-3:] == ["read references", "score", "ppo update"]
    for program in programs[-3:-1]:
        program.lower()  # as the run calls them


def test_a_run_without_a_critic_is_planned_without_it():
    """By the roles that are held, and in the programs; a critic that starts from no reward model is not asked for."""
    values = {"sft.steps": 0, "reward.steps": 0, "ppo.rewards.right": "own.py:right", "ppo.estimator": "reinforce_pp"}
    programs = Planned(read(tiny(**values)), plan.make_target(EIGHT), 4).programs({})[1]
    roles = plan.role_bytes(programs)["ppo"]
    assert set(roles) == {"policy", "reference"} and roles["policy"]["optimizer"] > 0 == roles["reference"]["optimizer"]
    assert [program.name for program in programs][-2:] == ["score", "ppo update"]


@pytest.mark.slow
@pytest.mark.parametrize("values", [{}, ADAPTERS], ids=["full", "shared_base"])
def test_every_program_of_a_run_is_planned(values, tmp_path, capsys):
    blocks = {"ppo.microbatch": 8, "ppo.score_batch": 8, "ppo.rollout_slots": 8}
    config = write_config(tmp_path / "all.py", **values, **blocks)
    code, out = icegrt_plan(capsys, config, "--quick", "--json", "--cache=")
    assert code == 0, out.err
    found = json.loads(out.out)
    programs = {program["name"]: program for program in found["programs"]}
    assert list(programs) == [
        "sft update", "reward update", "to rollout", "rollout", "first check", "score", "ppo update",
    ]  # fmt: skip
    assert set(found["roles"]["ppo"]) == {"policy", "value", "reward", "reference"} | ({"base"} if values else set())
    # Responses of 8 tokens in two generations of 8 rows: the first token of each is drawn by the prefill.
    assert programs["rollout"]["decode_steps"] == 2 * 7
    assert set(programs["rollout"]["parts"]) == {"prefill", "decode"}
    assert [offender for program in programs.values() for offender in program["offenders"]] == []
    assert all(part["flops"] > 0 for name in programs if name != "to rollout"
               for part in programs[name]["parts"].values())  # fmt: skip


def test_every_round_is_counted():
    steps = Planned(read(tiny(rounds=3)), plan.make_target(EIGHT), 4).steps
    assert steps == {"pretrain": 0, "sft": 100, "reward": 150, "ppo": 30}
