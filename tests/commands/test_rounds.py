"""Rounds of annotation: what is ranked, what the next round learns from, and that stopping changes nothing."""

import os
import pathlib
import shutil
import signal

import pytest

import icegrt_jax as ice
from icegrt_jax import commands, files
from icegrt_jax.commands import reward
from icegrt_jax.commands.workdir import prepare
from icegrt_jax.config import file as config_file
from icegrt_jax.config.options import AnnotationOptions
from icegrt_jax.data.records import Prompt, Ranking, read_jsonl, write_jsonl
from icegrt_jax.domains import load as load_domain
from icegrt_jax.runs.annotation import ranker
from icegrt_jax.training.metrics import read_metrics
from tests.commands.runs import call, command, copy_parts, run

ROUNDS = {
    "rounds": 2, "annotation.policy_k": 2, "annotation.instruct_k": 1, "annotation.limit": 6, "evaluate.best_of": 0,
    "evaluate.limit": 2,
}  # fmt: skip
BEFORE = ("data", "tokenizer", "pretrain", "sft")
LARGER = {"ppo.batch_size": 16, "ppo.ptx.batch_size": 16}  # divide over eight devices


@pytest.fixture(scope="module")
def gone_through(finished, tmp_path_factory):
    """(workdir, what was printed) of a run of two rounds."""
    workdir = copy_parts(finished, tmp_path_factory.mktemp("rounds") / "run", *BEFORE)
    process = run("run", workdir, **ROUNDS)
    assert process.returncode == 0, process.stderr
    return workdir, process.stdout


def up_to_the_last(gone_through, workdir: pathlib.Path, *more: str) -> pathlib.Path:
    """A workdir whose run has only come to the end of its first round."""
    workdir.mkdir(parents=True)
    for name in (*BEFORE, "rounds", *more):
        shutil.copytree(gone_through[0] / name, workdir / name, symlinks=True)
    return workdir


def same(one: pathlib.Path, other: pathlib.Path, *names: str) -> None:
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_the_first_round_is_as_a_run_of_one_round_and_a_workdir_by_itself(gone_through, finished):
    first = gone_through[0] / "rounds" / "1"
    same(first, finished[0], "reward/metrics.jsonl", "reward/done.json", "ppo/metrics.jsonl", "ppo/done.json")
    assert (first / "sft").is_symlink() and not os.path.isabs(os.readlink(first / "sft"))
    assert files.read_json(first / "config.json")["rounds"] == 1
    both = [ice.load_model(folder).params["final_norm"]["scale"] for folder in (first, gone_through[0])]
    assert (both[0] != both[1]).any(), "the workdir itself stands for the last round"
    assert (both[1] == ice.load_model(gone_through[0] / "ppo").params["final_norm"]["scale"]).all()


def test_answers_of_the_policy_and_of_ice_instruct_are_ranked_together_by_the_domain(gone_through):
    workdir, printed = gone_through
    rankings = read_jsonl(workdir / "data" / "rankings_round2.jsonl", Ranking)
    prompts = read_jsonl(workdir / "data" / "ranking_prompts.jsonl", Prompt)[: ROUNDS["annotation.limit"]]
    asked = {str(prompt.prompt): prompt for prompt in prompts}
    assert rankings and {str(ranking.prompt) for ranking in rankings} <= asked.keys(), "longer ones are left out"
    assert all(2 <= len(r.responses) <= 3 for r in rankings) and any(len(r.responses) == 3 for r in rankings)
    for i, ranking in enumerate(rankings):
        prompt = asked[str(ranking.prompt)]
        assert ranking.ranks == load_domain("adreview").rank(prompt, ranking.responses, f"0/round2/{i}")
    answers = sum(len(r.responses) for r in rankings)
    assert f"annotate: round 2: {len(rankings)} rankings of {answers} answers by domain" in printed


def test_the_reward_model_of_the_last_round_learns_from_the_rankings_of_all(gone_through):
    workdir, _ = gone_through
    report = files.read_json(workdir / "reward" / "data.json")
    rankings = read_jsonl(workdir / "data" / "rankings_round2.jsonl", Ranking)
    assert {"made", "own", "round2"} < set(report) and report["round2"]["kept"] == len(rankings)
    assert "round2" not in files.read_json(workdir / "rounds" / "1" / "reward" / "data.json")
    first, last = (read_metrics(folder / "reward" / "metrics.jsonl") for folder in (workdir / "rounds" / "1", workdir))
    assert [row["loss"] for row in first] != [row["loss"] for row in last]


def test_the_report_says_how_much_has_been_annotated_in_each_round(gone_through):
    workdir, _ = gone_through
    own = read_jsonl(workdir / "data" / "own_rankings.jsonl", Ranking)
    made = read_jsonl(workdir / "data" / "rankings.jsonl", Ranking)
    last = read_jsonl(workdir / "data" / "rankings_round2.jsonl", Ranking)
    count = lambda rankings: sum(len(ranking.responses) for ranking in rankings)
    assert files.read_json(workdir / "data" / "annotations.json") == [
        {"round": 1, "by": "", "rankings": len(own + made), "answers": count(own + made)},
        {"round": 2, "by": "domain", "rankings": len(last), "answers": count(last)},
    ]
    page = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    table = page.partition("<h2>Annotations</h2>")[2].partition("</table>")[0]
    assert "the config&#39;s sources" in table and f"<td>{count(own + made + last)}</td>" in table
    accuracy = files.read_json(workdir / "reward" / "done.json")["heldout"]["made/accuracy"]
    assert f"<td>made {accuracy:.3f}</td>" in table


def test_a_run_killed_in_the_last_round_ends_as_if_it_had_not_been(gone_through, tmp_path):
    workdir = up_to_the_last(gone_through, tmp_path / "run")
    (workdir / "data" / "rankings_round2.jsonl").unlink()  # as if it had been killed before that
    kill = int(signal.SIGKILL)
    assert run("run", workdir, stop=("ppo", 3, kill), **ROUNDS).returncode == -kill
    assert (workdir / "reward" / "done.json").exists() and not (workdir / "ppo" / "done.json").exists()
    process = run("run", workdir, **ROUNDS)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("reward: finished, skipped") == 2 and process.stdout.count("ppo: finished, skip") == 1
    stages = [f"{stage}/{name}" for stage in ("reward", "ppo") for name in ("metrics.jsonl", "done.json")]
    same(workdir, gone_through[0], *stages, "data/rankings_round2.jsonl", "evaluate/results.json", "ppo/samples.jsonl")


def test_people_rank_what_a_finished_run_is_to_learn_from_in_another_round(finished, tmp_path, capsys, monkeypatch):
    parts = ("config.json", "data", "tokenizer", "pretrain", "sft", "reward", "ppo", "evaluate")
    workdir = copy_parts(finished, tmp_path / "run", *parts)
    config = files.read_json(workdir / "config.json")
    for group in (config["ppo"], config["ppo"]["ptx"]):  # as if it had been run on the eight devices of the tests
        group["batch_size"] = 16
    files.write_json_atomic(workdir / "config.json", config)
    keys = {
        **LARGER, "rounds": 2, "annotation.by": "people", "annotation.policy_k": 1, "annotation.instruct_k": 1,
        "annotation.prompts": "jsonl:{workdir}/data/eval_prompts.jsonl", "annotation.weight": 2.5,
    }  # fmt: skip
    data = workdir / "data"
    asked, ranked = data / "to_rank_round2.jsonl", data / "rankings_round2.jsonl"
    assert call("run", workdir, **keys) == 2
    out, error = capsys.readouterr()
    assert f"rounds: 1 → 2: the run goes on to round 2; what it has is now in {workdir / 'rounds' / '1'}" in out
    same(workdir / "rounds" / "1", finished[0], "ppo/metrics.jsonl", "reward/done.json")
    assert (workdir / "evaluate.1" / "results.json").is_file()
    last = error.splitlines()[-1]
    assert last.startswith(f"error: round 2: {asked} has the answers to be ranked")
    assert last.endswith("save it as rankings_round2.jsonl beside it; the same command then goes on.")
    given = read_jsonl(asked, Ranking)
    assert given and all(record.ranks == (1.0, 1.0) for record in given)
    assert {str(r.prompt) for r in given} <= {str(p.prompt) for p in read_jsonl(data / "eval_prompts.jsonl", Prompt)}
    wrong = {
        "nothing is left of its 8 records: 8 have only answers of one rank": given,
        "line 1: an answer or a prompt that": [Ranking(given[0].prompt, ("mine", "yours"), (1.0, 2.0))],
    }
    for said, records in wrong.items():
        write_jsonl(ranked, records)
        assert call("run", workdir, **keys) == 2 and said in capsys.readouterr().err
    ranked.unlink()
    assert call("reward", workdir, **keys) == 2, "nor does a stage begin by itself before it"
    assert "`icegrt run` goes through the rounds" in capsys.readouterr().err
    write_jsonl(ranked, [Ranking(r.prompt, r.responses, (2.0, 1.0), r.meta) for r in given])
    weights, batches = [], reward.ranking_batches
    monkeypatch.setattr(reward, "ranking_batches", lambda *a, **k: weights.append(a[1]) or batches(*a, **k))
    assert call("reward", workdir, **keys) == 0, "and once it has been ranked it does"
    assert weights[0] == {"made": 0.3, "own": 0.7, "round2": 2.5}
    assert files.read_json(workdir / "reward" / "data.json")["round2"]["kept"] == len(given)


def test_an_actor_that_goes_on_begins_with_the_kl_that_the_round_before_has_left(gone_through, tmp_path):
    assert abs(read_metrics(gone_through[0] / "ppo" / "metrics.jsonl")[0]["kl"]) < 1e-3, "from ICE-Instruct it is 0"
    workdir = up_to_the_last(gone_through, tmp_path / "run", "reward")
    keys = {**ROUNDS, **LARGER, "annotation.start": "last", "ppo.iterations": 1}
    assert call("ppo", workdir, **keys) == 0
    [row] = read_metrics(workdir / "ppo" / "metrics.jsonl")
    assert abs(row["kl"]) > 1e-3 and row["first_ratio_error"] < 1e-4


def test_a_judge_ranks_by_gold_with_ties():
    prompt = Prompt(({"role": "user", "content": "a, b or c?"},), "b")
    rank = ranker(AnnotationOptions(by="exact"), "")
    assert rank([(prompt, ["c", "b", "a", "b"], "seed")]) == [[3.0, 1.0, 3.0, 1.0]]


@pytest.fixture
def prepared(gone_through, capsys):
    """Calls what comes before a command's program: the sentence it refuses with, else ""."""

    def call_(stage, workdir, source="", **keys):
        overrides = [arg for arg in command(stage, workdir, **{**ROUNDS, **keys}) if arg.startswith("--config.")]
        spec = command(stage, workdir)[1].removeprefix("--config=")
        config = config_file.load_config(spec, overrides)
        try:
            prepare(commands.TABLE[stage], config, workdir, source)
        except ice.UserError as error:
            return str(error)
        return ""

    return call_


def test_what_has_shaped_an_earlier_round_may_not_change(gone_through, tmp_path, prepared):
    workdir = up_to_the_last(gone_through, tmp_path / "run")
    shutil.copy(gone_through[0] / "config.json", workdir)
    first = workdir / "rounds" / "1"
    assert prepared("run", workdir) == ""
    refused = {
        "ppo.gamma": (0.5, [first / "ppo", workdir / "data" / "rankings_round2.jsonl"]),
        "ppo.iterations": (6, [first / "ppo"]),
        "reward.batch_size": (4, [first / "reward", first / "ppo"]),
        "sft.steps": (7, [workdir / "sft", first / "reward"]),
        "annotation.policy_k": (3, [workdir / "data" / "rankings_round2.jsonl"]),
    }
    for key, (value, places) in refused.items():
        error = prepared("run", workdir, **{key: value})
        assert key in error and all(str(place) in error for place in places), error
    (workdir / "data" / "rankings_round2.jsonl").unlink()
    assert prepared("run", workdir, **{"annotation.policy_k": 3}) == "", "until something has been ranked"


def test_a_branch_refers_to_the_rounds_before_its_source_as_well(gone_through, tmp_path, prepared):
    source = up_to_the_last(gone_through, tmp_path / "run", "reward", "ppo")
    shutil.copy(gone_through[0] / "config.json", source)
    branch = tmp_path / "branch"
    assert prepared("run", branch, source=f"{source}:reward") == ""
    assert (branch / "rounds" / "1" / "ppo" / "done.json").is_file() and (branch / "rounds").is_symlink()
    record = files.read_json(branch / "from.json")["stages"]
    assert [*record] == ["pretrain", "sft", "reward", "rounds/1/ppo", "rounds/1/reward"]
    done = source / "rounds" / "1" / "ppo" / "done.json"
    content = done.read_text().replace('"step": 5', '"step": 4')
    done.write_text(content)
    assert "done.json is not what was written there" in prepared("run", branch)
    files.write_text_atomic(done, content)  # as a command of that run would
    assert "rounds/1/ppo" in prepared("run", branch) and "no longer what" in prepared("run", branch)
