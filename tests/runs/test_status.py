"""`icegrt status`: a run that is finished, running, stopped or has not begun, as seen from outside."""

import json
import shutil
import subprocess
import sys

import pytest

from icegrt_jax import cli
from icegrt_jax.config.reruns import REPEATED
from icegrt_jax.hosts import lock, note
from icegrt_jax.runs import status

PARTS = [
    ("pretrain", "pretrain.steps"), ("sft", "sft.steps"), ("reward", "reward.steps"), ("ppo", "ppo.iterations"),
    ("evaluate", ""), ("report", ""),
]  # fmt: skip
CONFIG = {"rounds": 1, "pretrain": {"steps": 0}, "sft": {"steps": 8}, "reward": {"steps": 4}, "ppo": {"iterations": 6}}


@pytest.fixture
def workdir(tmp_path):
    """SFT has finished, PPO has come to iteration 3."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for name in ("sft/checkpoints/8", "ppo/checkpoints/2"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "arrays").write_bytes(bytes(1500))
    for stage in ("sft", "reward"):
        (tmp_path / stage).mkdir(exist_ok=True)
        (tmp_path / stage / "done.json").write_text(json.dumps({"step": CONFIG[stage]["steps"]}))
    rows = [{"step": 2, "score_raw": 0.5, "kl": 1.0, "gold": 0.4}, {"step": 3, "score_raw": 0.75, "kl": None}]
    (tmp_path / "ppo" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4, "sc')
    events = [
        {"alarm": "kl_above", "begins": True, "step": 1, "measured": "KL 9 nats"},
        {"alarm": "negative_kl", "begins": True, "step": 2, "measured": "KL -1 nats"},
        {"alarm": "kl_above", "begins": False, "step": 3, "measured": "KL 2 nats"},
    ]
    (tmp_path / "ppo" / "alarms.jsonl").write_text("".join(json.dumps(row) + "\n" for row in events))
    return tmp_path


def look(workdir):
    found = status.look(workdir, PARTS, REPEATED)
    return found, {stage["name"]: stage for stage in found["stages"]}


def test_a_run_that_was_stopped(workdir):
    found, stages = look(workdir)
    assert found["state"] == "stopped" and found["holder"] is None
    states = {name: stage["state"] for name, stage in stages.items()}
    assert states == {
        "sft": "finished", "reward": "finished", "ppo": "stopped", "evaluate": "not begun", "report": "not begun",
    }  # fmt: skip
    ppo = stages["ppo"]
    assert (ppo["step"], ppo["steps"], ppo["checkpoints"]) == (3, 6, [2])
    assert ppo["numbers"] == {"score_raw": 0.75, "gold": 0.4, "kl": 1.0}
    assert [alarm["alarm"] for alarm in ppo["alarms"]] == ["negative_kl"]
    assert ppo["bytes"] > 1500 and stages["sft"]["checkpoints"] == [8]


def test_a_run_that_is_going_on_says_who_has_it_and_when_it_will_be_done(workdir):
    said = {"stage": "ppo", "step": 4, "total": 6, "phase": "learn", "compiling": False, "s_per_step": 90.0}
    release = lock.hold(workdir, "run")
    note.Note(workdir).write({**said, "metrics": {}})
    try:
        found, stages = look(workdir)
    finally:
        release()
    assert found["state"] == "running" and found["holder"]["command"] == "run"
    ppo = stages["ppo"]
    assert (ppo["state"], ppo["step"], ppo["doing"]) == ("running", 4, "learn")
    assert ppo["seconds_left"] == pytest.approx(180, abs=5)


def test_a_run_that_compiles_says_so(workdir):
    said = {"stage": "ppo", "step": 3, "total": 6, "phase": "rollout", "compiling": True, "s_per_step": None}
    release = lock.hold(workdir, "ppo")
    note.Note(workdir).write({**said, "metrics": {}})
    try:
        _, stages = look(workdir)
    finally:
        release()
    assert stages["ppo"]["doing"] == "compiling" and "seconds_left" not in stages["ppo"]


def test_rounds_are_told_apart(workdir):
    (workdir / "config.json").write_text(json.dumps({**CONFIG, "rounds": 2}))
    first = workdir / "rounds" / "1"
    first.mkdir(parents=True)
    shutil.move(workdir / "ppo", first / "ppo")
    found, _ = look(workdir)
    assert [(stage["name"], stage.get("round"), stage["state"]) for stage in found["stages"]] == [
        ("sft", None, "finished"), ("reward", 1, "not begun"), ("ppo", 1, "stopped"), ("reward", 2, "finished"),
        ("ppo", 2, "not begun"), ("evaluate", None, "not begun"), ("report", None, "not begun"),
    ]  # fmt: skip


def test_the_command_prints_it_in_80_columns(workdir, capsys):
    assert cli.main(["status", str(workdir)]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text and all(len(line) <= 80 for line in text.splitlines()[1:])
    assert "ppo: score_raw 0.75  gold 0.4  kl 1" in text
    assert "ppo: alarm negative_kl since step 2: KL -1 nats" in text
    row = next(line for line in text.splitlines() if line.startswith("ppo "))
    assert row.split()[:3] == ["ppo", "stopped", "3/6"]
    assert cli.main(["status", str(workdir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "stopped"


def test_it_takes_its_folder_as_every_other_command_does(workdir, capsys):
    assert cli.main(["status", str(workdir), "--json"]) == 0
    said = capsys.readouterr().out
    assert cli.main(["status", f"--workdir={workdir}", "--json"]) == 0
    assert capsys.readouterr().out == said
    assert cli.main(["status"]) == 2
    assert "icegrt status: expected the run's folder" in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert cli.main(["status", str(tmp_path)]) == 2
    assert f"{tmp_path} holds no run" in capsys.readouterr().err


def test_it_starts_no_jax(workdir):
    code = (
        f"import sys; from icegrt_jax.cli import main; main(['status', {str(workdir)!r}]); print('jax' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "False"


def test_a_whole_run_is_finished(finished):
    found, stages = look(finished[0])
    assert found["state"] == "finished" and {stage["state"] for stage in stages.values()} == {"finished"}
    assert stages["ppo"]["step"] == stages["ppo"]["steps"] and stages["sft"]["numbers"]["loss"] > 0
    assert not (finished[0] / note.FILE_NAME).exists()
