"""docs/extending.md carried out as it stands: its files written to a folder of their own, its commands run there."""

import json
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest

from icegrt_jax import files
from icegrt_jax.report import card
from icegrt_jax.runs import own_code
from tests.commands.runs import begin, ended

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def files_of(section):
    """{name: text} of the files that a section of the page shows, and its commands."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    shown = re.findall(r"^\*\*(\w+\.py)\*\*[^\n]*:\n\n```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return dict(shown), re.findall(r"^\$ (icegrt .*)$", text, re.MULTILINE)


def status():
    return subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout


def icegrt(command, folder):
    """A command line of the page, run in the folder on one device."""
    return ended(begin(shlex.split(command)[1:], cwd=folder))


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    """(folder, what was printed) of the domain's recipe, the judge's file beside it."""
    folder, before = tmp_path_factory.mktemp("extending"), status()
    shown, [command] = files_of("A domain")
    for name, text in (shown | files_of("A judge")[0]).items():
        (folder / name).write_text(text)
    process = icegrt(command, folder)
    assert process.returncode == 0, process.stderr
    assert status() == before, "nothing of the package was touched"
    return folder, process.stdout


def test_the_recipe_of_a_domain_runs_the_whole_chain_on_its_records_ranks_and_grades(sums):
    folder, printed = sums
    run = folder / "runs" / "sums"
    assert (run / "report" / "index.html").is_file()
    asked = files.read_jsonl(run / "data" / "asked.jsonl")
    assert len(asked) == 16 and re.fullmatch(r"\d and \d make \d+", asked[0]["reference"])
    ranked = files.read_jsonl(run / "data" / "own_rankings.jsonl")
    assert ranked and all(rank <= len(answer) for row in ranked for rank, answer in zip(row["ranks"], row["responses"]))
    results = files.read_json(run / "evaluate" / "results.json")
    assert results["columns"][0] == ["sum", "right sums"] and "right sums" in printed
    assert {"sum", "gold", "gold_greedy"} <= results["rows"][-1]["metrics"].keys()
    row = files.read_jsonl(run / "ppo" / "metrics.jsonl")[0]
    assert 0 <= row["gold"] <= 1 and 0 <= row["gold_sum"] <= 1
    assert "right sums" in (run / "report" / "index.html").read_text() or "sum" in results["rows"][0]["metrics"]


def test_the_code_of_a_run_is_noted_and_a_change_of_it_is_said(sums, monkeypatch):
    folder, _ = sums
    monkeypatch.chdir(folder)
    run = folder / "runs" / "sums"
    noted = [
        files.read_json(run / file)["code"] for file in ("data/domain.json", "ppo/done.json", "evaluate/done.json")
    ]
    assert noted[0] == noted[1] == noted[2] and list(noted[0]) == ["my_sums.py:Sums"]
    assert json.loads((run / "config.json").read_text())["domain"] == "my_sums.py:Sums", "as it was given"
    command = files_of("A domain")[1][0].replace(" run ", " evaluate ")
    assert own_code.changes(run) == []
    text = (folder / "my_sums.py").read_text()
    (folder / "my_sums.py").write_text(text + "\n# changed\n")
    try:
        said = icegrt(command, folder).stdout
    finally:
        (folder / "my_sums.py").write_text(text)
    for part in ("data", "ppo", "evaluate"):
        assert f"warning: {run / part} was made with my_sums.py:Sums as it was" in said


def test_the_recipe_of_a_judge_judges(sums):
    folder, _ = sums
    run = folder / "runs" / "sums"
    [command] = files_of("A judge")[1]
    before = files.read_json(run / "evaluate" / "results.json")
    process = icegrt(command, folder)
    assert process.returncode == 0, process.stderr
    assert files.read_json(run / "evaluate.1" / "results.json") == before, "done again: it had another judge"
    results = files.read_json(run / "evaluate" / "results.json")
    assert {"said", "brief", "gold"} <= results["rows"][0]["metrics"].keys()
    assert "words said" in process.stdout and "in brief" in process.stdout
    assert list(files.read_json(run / "evaluate" / "done.json")["code"]) == ["my_judge.py:reasoned"]


def test_the_model_card_says_what_the_domain_says_of_its_records(sums, monkeypatch):
    folder, _ = sums
    monkeypatch.chdir(folder)
    assert card._of_domain("my_sums.py:Sums") == ("sums of two digits", "CC0-1.0")
    assert card._of_domain(str(folder / "gone.py:Sums")) == ("domain .../gone.py:Sums", "not known")


def test_the_recipe_of_a_reward_function_trains_with_it_beside_the_model_and_alone(sums):
    folder, _ = sums
    shown, (both, alone) = files_of("A reward function")
    (folder / "my_rewards.py").write_text(shown["my_rewards.py"])
    # What the recipe would make anew before PPO is there already, made with the same values.
    for name, parts in (("both", ("reward",)), ("alone", ())):
        for part in ("data", "tokenizer", "pretrain", "sft", *parts):
            shutil.copytree(folder / "runs" / "sums" / part, folder / "runs" / name / part)
    process = icegrt(both, folder)
    assert process.returncode == 0, process.stderr
    row = files.read_jsonl(folder / "runs" / "both" / "ppo" / "metrics.jsonl")[-1]
    assert 0 <= row["reward/right"] <= 1 and row["reward/right/known"] == 1 and row["reward/brief"] < 0
    assert "score_raw" in row
    process = icegrt(alone, folder)
    assert process.returncode == 0, process.stderr
    row = files.read_jsonl(folder / "runs" / "alone" / "ppo" / "metrics.jsonl")[-1]
    assert "score_raw" not in row and "reward/right" in row
    assert not (folder / "runs" / "alone" / "reward").exists()


def test_a_fault_in_a_domain_is_said_before_anything_is_written(sums):
    folder, _ = sums
    command = files_of("A domain")[1][0].replace("runs/sums", "runs/new")
    text = (folder / "my_sums.py").read_text()
    try:
        (folder / "my_sums.py").write_text(text.replace('"sum": right', '"sum": 2 + right'))
        process = icegrt(command, folder)
    finally:
        (folder / "my_sums.py").write_text(text)
    assert process.returncode == 2 and "gave sum=3.0; expected a number from 0 to 1" in process.stderr
    assert not (folder / "runs" / "new").exists()
