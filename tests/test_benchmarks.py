"""The benchmark suite itself: formulas, turns, targets, and that our own contenders run."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import cases, check, formulas, heap, heap_config, memory, noise, ours, page, results, table
from benchmarks.__main__ import main
from benchmarks.formulas import Machine, Shape
from benchmarks.turns import Contender, take_turns
from icegrt_jax import config as config_module
from icegrt_jax.config import default_config
from icegrt_jax.config.convert import read
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import init_params, unembed
from icegrt_jax.models.transformer import hidden_states
from icegrt_jax.runs.roles import ppo_config
from icegrt_jax.training.optimizers import OptimizerConfig

SMALL = Shape(vocab_size=64, d_model=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, d_ff=32)
MODEL = dataclasses.asdict(cases.Model("small", SMALL))
PPO_SETTINGS = {"batch": 8, "prompt": 4, "new": 3, "epochs": 2}


# Formulas


@pytest.mark.parametrize("shape", [cases.SMOLLM2, cases.TINY, cases.LLAMA_1B, SMALL])
def test_weights_are_those_of_the_model_without_its_norms(shape):
    norms = (2 * shape.num_layers + 1) * shape.d_model
    assert shape.layer_weights + shape.head_weights + norms == ModelConfig(**dataclasses.asdict(shape)).num_params


def test_the_shapes_have_the_sizes_they_are_known_for():
    assert ModelConfig(**dataclasses.asdict(cases.SMOLLM2)).num_params == 134_515_008
    assert ModelConfig(**dataclasses.asdict(cases.LLAMA_1B)).num_params == 1_235_814_400


def test_flops_by_hand():
    # One layer: q 16x16, k and v 16x8 each, o 16x16, three of 16x32 = 2304 weights; two layers 4608. Three tokens see
    # 1 + 2 + 3 tokens; each such pair costs q k and weight v of 2 heads x 8, a multiply and an add each, in 2 layers.
    assert SMALL.layer_weights == 4608
    assert formulas.forward_flops(SMALL, [3], logits=1) == 2 * 4608 * 3 + 6 * (2 * 2 * 16) * 2 + 2 * 64 * 16
    assert formulas.sft_flops(SMALL, 1, 3) == 3 * (2 * 4608 * 3 + 768 + 2 * 1024 * 2)
    assert formulas.reward_flops(SMALL, 1, 3) == 3 * (2 * 4608 * 3 + 768)


def test_flops_agree_with_what_xla_counts():
    shape = dataclasses.replace(SMALL, d_model=64, num_kv_heads=2, head_dim=32, d_ff=128, vocab_size=512)
    config, rows, length = ModelConfig(**dataclasses.asdict(shape)), 2, 16

    def forward(params, tokens):
        return unembed(params, config, hidden_states(params, config, tokens, jnp.ones_like(tokens, jnp.bool_)))

    params = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
    lowered = jax.jit(forward).lower(params, jax.ShapeDtypeStruct((rows, length), jnp.int32))
    counted = lowered.compile().cost_analysis()["flops"]
    causal = formulas.forward_flops(shape, [length] * rows, rows * length)
    square = 4 * shape.num_layers * shape.num_heads * shape.head_dim * rows * (length**2 - length * (length + 1) // 2)
    assert counted == pytest.approx(causal + square, rel=0.06)  # norms, softmax and rotations are the rest


def test_a_decode_step_reads_weights_once_and_the_cache_of_every_row():
    # SmolLM2 in float32: 134.5 M weights are 538 MB, a cached token 46 KB.
    assert formulas.decode_bytes(cases.SMOLLM2, 0) == pytest.approx(538e6, rel=1e-3)
    one = formulas.decode_bytes(cases.SMOLLM2, 1) - formulas.decode_bytes(cases.SMOLLM2, 0)
    assert one == 4 * 2 * 30 * 3 * 64


def test_generation_is_bound_by_memory_at_batch_one_and_by_arithmetic_at_many():
    slow_memory, slow_maths = Machine(1e15, 1e9), Machine(1e9, 1e15)
    lengths = [(8, 5)]
    steps = sum(formulas.decode_bytes(SMALL, 8 + t) for t in range(1, 5)) + formulas.decode_bytes(SMALL, 0)
    assert formulas.generation_seconds(SMALL, slow_memory, lengths) == pytest.approx(steps / 1e9)
    # Computing all twelve tokens at once costs the same arithmetic.
    whole = formulas.forward_flops(SMALL, [12], logits=5)
    assert formulas.generation_seconds(SMALL, slow_maths, lengths) == pytest.approx(whole / 1e9)


def test_ended_responses_cost_nothing_more():
    machine = Machine(1e9, 1e15)
    one = formulas.generation_seconds(SMALL, machine, [(8, 20)])
    short = formulas.generation_seconds(SMALL, machine, [(8, 1)])
    assert formulas.generation_seconds(SMALL, machine, [(8, 20), (8, 1)]) == pytest.approx(one + short)


def test_the_limit_of_ppo_on_smollm2_is_about_sixteen_seconds():
    phases = formulas.ppo_seconds(cases.SMOLLM2, Machine(145e9, 27.9e9), [(64, 64)] * 8, epochs=1)
    assert phases["rollout"] == pytest.approx(2.1, abs=0.2)
    assert sum(phases.values()) == pytest.approx(16, abs=1)


def test_growth_is_what_depends_on_vocabulary_times_batch():
    full = {(v, b): 7 * v + 11 * b + memory.logits_bytes(v, b, 10) for v in (100, 300) for b in (2, 5)}
    assert memory.growth(full, 10) == pytest.approx(1.0)
    assert memory.growth({key: 7 * key[0] + 11 * key[1] for key in full}, 10) == 0.0


# Workers and turns

TRIVIAL = """
import time
ORDER = {order!r}
def contender(turns, *, name, fail_at=0):
    print("noise on stdout")
    while turns.wait():
        if turns.count == fail_at:
            raise RuntimeError("as asked")
        with open(ORDER, "a") as file:
            file.write(name)
        time.sleep(0.01)
        turns.done({{"sleep": 0.01}}, count=turns.count)
"""


@pytest.fixture
def trivial(tmp_path, monkeypatch):
    """Makes contenders of the module above; what they did, in order, is in the file `order`."""
    (tmp_path / "trivial_contender.py").write_text(TRIVIAL.format(order=str(tmp_path / "order")))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda name, **more: Contender(name, "trivial_contender:contender", {"name": name, **more})


def test_contenders_take_turns_after_a_warm_up_each(trivial, tmp_path):
    found = take_turns([trivial("a"), trivial("b")], rounds=3, say=lambda text: None)
    assert (tmp_path / "order").read_text() == "ab" + "ab" * 3
    assert [r["info"]["count"] for r in found["a"]["rounds"]] == [2, 3, 4]
    assert all(r["seconds"] >= 0.01 and r["phases"] == {"sleep": 0.01} for r in found["b"]["rounds"])
    assert found["a"]["warm_up"]["info"]["count"] == 1


def test_a_contender_that_does_not_stay_begins_anew_for_each_turn(trivial, tmp_path):
    away = dataclasses.replace(trivial("b"), stays=False)
    found = take_turns([trivial("a"), away, dataclasses.replace(away, name="c")], rounds=2, say=lambda text: None)
    assert (tmp_path / "order").read_text() == "a" + "abbbb" * 2  # c is b by another name
    assert [[r["info"]["count"] for r in found[name]["rounds"]] for name in "bc"] == [[2, 2], [2, 2]]
    failing = dataclasses.replace(trivial("d", fail_at=2), stays=False)
    assert take_turns([failing], rounds=2, say=lambda text: None)["d"] == {"failed": "RuntimeError: as asked"}


def test_a_contender_that_fails_leaves_the_others_their_turns(trivial, tmp_path):
    said = []
    found = take_turns([trivial("a"), trivial("b", fail_at=3)], rounds=3, say=said.append)
    assert found["b"] == {"failed": "RuntimeError: as asked"} and any("as asked" in line for line in said)
    assert len(found["a"]["rounds"]) == 3 and (tmp_path / "order").read_text() == "ababaa"


def test_a_contender_that_does_not_start_says_why():
    found = take_turns([Contender("x", "no_such_module:f", {})], rounds=1, say=lambda text: None)
    assert "no_such_module" in found["x"]["failed"]
    dead = Contender("x", "os:_exit", {}, python=sys.executable)
    assert "failed" in take_turns([dead], rounds=1, say=lambda text: None)["x"]


def test_no_round_begins_after_the_deadline(trivial, tmp_path):
    found = take_turns([trivial("a")], rounds=3, deadline=0.0, say=lambda text: None)
    assert "time budget" in found["a"]["missing"] and (tmp_path / "order").read_text() == "a"


def test_busy_and_stolen_time_are_read_from_the_first_line():
    text = "cpu  100 20 30 4000 50 6 7 80 9 9\ncpu0 1 2 3 4 5 6 7 8 9 9\n"
    assert noise.machine_seconds(text, 100) == (1.63, 0.80)


# Results and targets

HEAD = {
    "quick": False,
    "machine": {"cpu": "a CPU", "cores": 2, "memory_gib": 4, "system": "Linux", "python": "3.11"},
    "versions": {"jax": "1.0"},
}


def repetitions(seconds, peak=4 * 2**30, phases=None, **info):
    common = {"noise": 0.1, "peak_bytes": peak, "info": info}
    rounds = [{"seconds": s, "phases": phases or {"a": s}, **common} for s in seconds]
    return {"ready_s": 1.0, "warm_up": rounds[0], "rounds": rounds}


def test_a_ratio_is_of_medians_and_its_range_by_round():
    ours_, peer = repetitions([1.0, 2.0, 3.0]), repetitions([4.0, 4.0, 3.0])
    assert results.speed_ratio(ours_, peer) == (2.0, 1.0, 4.0)


def test_the_fastest_of_several_peers_counts():
    group = {"icegrt_jax": repetitions([2.0]), "a": repetitions([8.0]), "b": repetitions([6.0]), "c": {"missing": "no"}}
    case = {"groups": [group], "limit_s": 1.0}
    row = {"measure": "speed", "against": ["a", "b", "c"]}
    value, remark, failed = check.value(row, case)
    assert (value, failed) == (3.0, False) and remark.startswith("b; ")


def met_and_missed(row):
    """The section results that meet a row exactly, and that miss it by two per cent."""
    limit, sign = (row["at_least"], -1) if "at_least" in row else (row["at_most"], 1)
    for factor in (1.0, 1.0 + 0.02 * sign):
        target, of, peer = limit * factor, row.get("of", "icegrt_jax"), row.get("against", ["-"])[-1]
        rate = {"flops": target, "flops_rate": 1.0, "flops_rate_is": "", "flops_phase": "a"}
        case = {"limit_s": target, "growth": target, **rate}
        other = repetitions([target], peak=1000, checksum=1 if factor == 1 else 2)
        if row["measure"] == "memory":
            mine = repetitions([1.0], peak=1000 * target)
        else:
            mine = repetitions([1.0], peak=1000, checksum=1)
        case["groups"] = [{of: mine, peer: other}]
        yield {row["section"]: {"cases": {row["case"]: case}}}


@pytest.mark.parametrize("row", check.load_targets(), ids=lambda row: row["says"])
def test_every_target_can_be_met_and_missed(row):
    met, missed = met_and_missed(row)
    assert check.check(met, [row])[0]["verdict"] == check.MET
    assert check.check(missed, [row])[0]["verdict"] == check.SHORT
    assert check.check({}, [row])[0]["verdict"] == check.UNMEASURED


def test_a_peer_that_failed_is_not_passed_over():
    row = {"says": "", "section": "s", "case": "c", "measure": "speed", "against": ["a", "b"], "at_least": 1.0}
    group = {"icegrt_jax": repetitions([1.0]), "a": repetitions([2.0]), "b": {"failed": "out of memory"}}
    (found,) = check.check({"s": {"cases": {"c": {"groups": [group]}}}}, [row])
    assert found["verdict"] == check.FAILED and found["value"] == 2.0


def test_saved_results_are_printed_and_checked_again(tmp_path, capsys):
    short = {"ppo": {"smollm2": ([30.0], [36.0])}}
    for section, cases_ in short.items():
        groups = {
            name: {"title": "PPO.", "unit": "samples", "amount": 8, "limit_s": 16.0,
                   "groups": [{"icegrt_jax": repetitions(mine), "TRL": repetitions(theirs)}]}
            for name, (mine, theirs) in cases_.items()
        }  # fmt: skip
        results.write(tmp_path, {**HEAD, "section": section, "cases": groups})
    assert main([f"--from={tmp_path}"]) == 0
    assert main([f"--from={tmp_path}", "--check"]) == 1
    printed = capsys.readouterr().out
    assert "1.20 (1.20-1.20)" in printed and "falls short" in printed and "not measured" in printed


def test_the_page_holds_the_results_between_its_marks(tmp_path):
    readme, folder = tmp_path / "README.md", tmp_path / "results"
    readme.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    group = {"icegrt_jax": repetitions([2.0]), "TRL": {"missing": "not installed"}}
    case = {"title": "A step.", "unit": "tokens", "amount": 10, "limit_s": 1.0, "groups": [group]}
    results.write(folder, {**HEAD, "section": "sft", "cases": {"smollm2": case}})
    page.write_page(readme, folder)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "Measured on a CPU, 2 cores, 4 GiB; jax 1.0 (sft)." in text
    assert "### Supervised step" in text and "50 %" in text
    results.write(folder, {**HEAD, "quick": True, "section": "ppo", "cases": {}})
    with pytest.raises(SystemExit, match="--quick"):
        page.write_page(readme, folder)


def test_a_wrong_option_is_answered_with_what_is_known(tmp_path, capsys):
    for argv, said in (
        (["--only=speed"], "limits, sampler, ppo"),
        (["--rounds=0"], "1 or more"),
        (["--quick", "--check"], "full size"),
        ([f"--from={tmp_path}"], "no results there"),
    ):
        with pytest.raises(SystemExit):
            main(argv)
        assert said in capsys.readouterr().err


def test_the_table_says_what_share_of_the_flops_is_reached():
    group = {"icegrt_jax": repetitions([2.0], phases={"learn": 0.5})}
    case = {"title": "T.", "unit": "samples", "amount": 1, "groups": [group], "flops": 1e12, "flops_phase": "learn"}
    case |= {"flops_rate": 4e12, "flops_rate_is": "of the nominal rate"}
    assert "Model FLOPs of learn: 2.0 TFLOP/s, 50 % of the nominal rate." in table.case_table(case)


def test_tables_leave_out_columns_that_nobody_fills():
    groups = [{"icegrt_jax": repetitions([2.0])}]
    case = {"title": "T.", "unit": "tokens", "amount": 10, "limit_s": None, "groups": groups}
    text = table.case_table(case)
    assert "5.000" in text and "mean length" not in text and "ours is" not in text


# Our own contenders


class FakeTurns:
    """Two turns in this process."""

    def __init__(self):
        self.count, self.answers = 0, []

    def wait(self):
        self.count += 1
        return self.count <= 2

    def done(self, phases, **info):
        json.dumps([phases, info])
        self.answers.append((phases, info))


@pytest.mark.parametrize(
    ("function", "settings", "phases"),
    [
        ("sample", {"batch": 2, "prompt": 4, "new": 3}, {"generate"}),
        pytest.param("ppo", PPO_SETTINGS, {"rollout", "score", "learn"}, marks=pytest.mark.slow),
        ("sft", {"rows": 8, "length": 8}, {"update"}),
        ("reward", {"rows": 16, "length": 8}, {"update"}),
        ("ranked", {"prompts": 8, "answers": 3, "prompt": 4, "answer": 3, "trees": True}, {"update"}),
    ],
)
def test_our_contenders_run(function, settings, phases):
    turns = FakeTurns()
    getattr(ours, function)(turns, model=MODEL, **settings)
    assert len(turns.answers) == 2 and all(set(found) == phases for found, _ in turns.answers)
    if function == "ppo":
        assert turns.answers[0][1]["lengths"] == [3] * 8


def test_the_ppo_that_is_measured_is_the_default_one():
    config = default_config()
    config.ppo.num_ppo_epochs = 4
    options = read(config)
    assert ours.ppo_config(4) == ppo_config(options.ppo, options.value)
    assert ours.KL == {name: config.ppo.kl[name.removeprefix("kl_")] for name in ours.KL}
    lr = {**config.ppo.policy_optimizer, "lr": ours.OPTIMIZER.lr}
    assert ours.OPTIMIZER == OptimizerConfig(total_steps=ours.OPTIMIZER.total_steps, **lr)


def test_ways_of_sampling_answer_every_prompt_alike():
    prompts, answers = [[5 + i] * (1 + i % 3) for i in range(5)], {}
    for way in ours.WAYS:
        turns = FakeTurns()
        ours.sample_prompts(
            turns, model=MODEL, prompts=prompts, eos_ids=[7, 8, 9, 10], prompt=4, new=6, slots=2, way=way
        )
        answers[way] = turns.answers[0][1]
        assert turns.answers[1][1] == answers[way] and len(answers[way]["lengths"]) == 5
    assert all(found == answers["static"] for found in answers.values())


@pytest.mark.parametrize("update", ["sft_update", pytest.param("ppo_update", marks=pytest.mark.slow)])
def test_memory_of_updates_is_read_off_without_running_them(update):
    turns = FakeTurns()
    ours.update_memory(turns, model=MODEL, shapes=[MODEL["shape"]], batches=[2], length=8, update=update)
    ((vocab_size, batch, temporary),) = turns.answers[0][1]["programs"]
    assert (vocab_size, batch) == (64, 2) and temporary > 0


def test_random_tokens_are_the_same_for_everybody_and_never_special():
    tokens = cases.random_tokens(100, 3, 50)
    assert tokens.dtype == np.int32 and tokens.min() >= cases.FIRST_ID and tokens.max() < 100
    assert (tokens == cases.random_tokens(100, 3, 50)).all()


# Whole stages


def stage_run(peak: float, *seconds: float) -> dict:
    steps = [[x, 2 * x, x / 2] for x in seconds]
    return {"peak_bytes": peak * table.GIB, "info": {"steps": steps, "after_loop": table.GIB}}


def test_ways_of_allocating_are_compared_by_their_worst_peak_and_round_by_round():
    ways = {
        "icegrt_jax": [stage_run(4, 2, 2), stage_run(5, 1, 1)], "other": [stage_run(4, 4, 4), stage_run(4, 4, 4)],
        "broken": [stage_run(1, 1), {"failed": "no memory"}],
    }  # fmt: skip
    ours_row, other, broken = heap.case("a stage.", ways)["rows"]
    assert ours_row[1:4] == ["4.00, 5.00", "1.25", "1.00"] and other[2] == "1.00"
    assert other[5] == "3.00 (2.00-4.00)" and other[6:] == ["8.00", "2.00"]
    assert broken[:2] == ["broken", "no memory"] and len(broken) == len(ours_row)


def test_the_stages_that_are_measured_have_a_valid_config():
    for switch in heap_config.SWITCHES:
        config_module.check(config_module.read(heap_config.get_config(switch)))
