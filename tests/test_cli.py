"""The command line: what reaches a stage, and what a mistake is answered with."""

import pathlib
import re
import subprocess
import sys
import types

import pytest

from icegrt_jax import cli, commands
from icegrt_jax.errors import UserError

QUICKSTART = pathlib.Path(__file__).parent.parent / "configs" / "quickstart.py"
CONFIG = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({"seed": 0, "batch_size": 8, "log": {"every": 1}})
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture
def calls(monkeypatch):
    """The (stage, arguments) of every call that reached a stage; all stages and the project's checks are stand-ins."""
    calls = []

    def check(config):
        if config.batch_size % 8:
            raise UserError(f"batch_size={config.batch_size} does not divide over 8 devices; use a multiple of 8.")

    def stage(name):
        return types.SimpleNamespace(main=lambda *args, **flags: calls.append((name, args, flags)))

    def read(config):
        return types.SimpleNamespace(**config, reward=None, ppo=None, total=0, reward_model=0.0)

    monkeypatch.setattr(cli.convert, "read", read)
    monkeypatch.setattr(cli.checks, "check", check)
    monkeypatch.setattr(cli.checks, "doubts", lambda *sections, **more: [])
    for name in commands.TABLE:
        monkeypatch.setitem(sys.modules, f"icegrt_jax.commands.{name.replace('-', '_')}", stage(name))
    return calls


def answer(capsys, *argv):
    """The error line of a command that must fail as a user's mistake does."""
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err[len("error: ") : -1]


def ppo(file, tmp_path, *more):
    return ("ppo", f"--config={file}", f"--workdir={tmp_path / 'run'}", *more)


@pytest.mark.parametrize(
    "stage", [name for name, command in commands.TABLE.items() if command.reads == "run" and not command.flags]
)
def test_a_stage_gets_the_resolved_config_and_the_workdir(stage, calls, file, tmp_path):
    command = [stage, f"--config={file}", f"--workdir={tmp_path / 'run'}", "--config.seed=3"]
    assert cli.main(command) == 0
    [(name, (config, workdir), flags)] = calls
    assert (name, config.seed, workdir, flags) == (stage, 3, tmp_path / "run", {})
    assert (tmp_path / "run" / "config.json").exists()


def test_sample_gets_its_own_flags(calls, file, tmp_path):
    flags = "--checkpoint=sft --prompts=jsonl:p.jsonl --out=o.jsonl --num_samples=2 --temperature=0.5".split()
    assert cli.main(["sample", *ppo(file, tmp_path)[1:], *flags]) == 0
    expected = dict(checkpoint="sft", prompts="jsonl:p.jsonl", out="o.jsonl", num_samples=2, temperature=0.5)
    assert calls[0][2] == {**expected, "max_new_tokens": 128}


def test_export_gets_its_own_flags(calls, file, tmp_path):
    assert cli.main(["export", *ppo(file, tmp_path)[1:], "--stage=sft", "--out=m", "--dtype=bfloat16"]) == 0
    [(name, _, flags)] = calls
    expected = dict(stage="sft", role=None, member=0, out="m", dtype="bfloat16", use=None, adapter=False, base="")
    assert (name, flags) == ("export", expected)


def test_a_plan_gets_the_checked_config_and_leaves_no_folder(calls, file, tmp_path):
    command = ["plan", f"--config={file}", "--topology=v5e:2x4", "--slices=2", "--config.seed=3", "--json"]
    assert cli.main(command) == 0
    [(name, (config,), flags)] = calls
    assert (name, config.seed, flags["name"]) == ("plan", 3, str(file))
    assert (flags["topology"], flags["slices"], flags["as_json"], flags["sweep"]) == ("v5e:2x4", 2, True, False)


def test_data_gets_its_flags_and_no_config(calls):
    command = "data build --source=jsonl:a.jsonl --kind=ranking --name=mine --out=tfds --data_dir=here".split()
    assert cli.main(command) == 0
    flags = dict(command="build", source="jsonl:a.jsonl", kind="ranking", data_dir="here", config="", tokenizer="")
    assert calls == [("data", (), {**flags, "name": "mine", "split": "train", "out": "tfds"})]


def test_data_looks_where_the_environment_says(calls, monkeypatch):
    monkeypatch.setenv("ICEGRT_DATA", "/somewhere")
    assert cli.main("data check --source=jsonl:a.jsonl --kind=text".split()) == 0
    assert calls[0][2]["data_dir"] == "/somewhere"


def test_check_model_gets_its_flags_and_its_result_is_the_exit_code(calls, monkeypatch):
    assert cli.main(["check-model", "--hf=models/a", "--new_tokens=8"]) == 0
    flags = dict(hf="models/a", reference="", dtype="float32", prompts="", new_tokens=8, tolerance=0.0)
    assert calls == [("check-model", (), flags)]
    monkeypatch.setattr(sys.modules["icegrt_jax.commands.check_model"], "main", lambda **flags: 1)
    assert cli.main(["check-model", "--hf=models/a"]) == 1


def test_evaluate_reward_gets_its_flags_a_source_as_often_as_it_is_given(calls, monkeypatch):
    monkeypatch.delenv("ICEGRT_DATA", raising=False)
    command = "evaluate-reward --reward=runs/a --out=a.json --source=jsonl:a.jsonl --source=b=jsonl:b.jsonl --limit=9"
    assert cli.main(command.split()) == 0
    flags = dict(reward="runs/a", out="a.json", policy="", source=["jsonl:a.jsonl", "b=jsonl:b.jsonl"], limit=9)
    assert calls == [
        ("evaluate-reward", (), {**flags, "data_dir": ".", "quality": "ranks", "length": 0, "batch_size": 16})
    ]


@pytest.mark.parametrize(
    "argv, message",
    [
        ("", "the following arguments are required: STAGE; see icegrt --help"),
        ("pppo", "unknown stage 'pppo'; did you mean ppo?"),
        ("xyzzy", "unknown stage 'xyzzy'; the stages are run, pretrain, sft, reward"),
        ("ppo", "the following arguments are required: --config, --workdir; see icegrt ppo --help"),
        ("ppo --config=no.py --workdir=w", "config file no.py does not exist"),
        ("ppo --config=no.py --workdr=w", "the following arguments are required: --workdir"),
        ("ppo --config=no.py --workdir=w --tempreature=1", "unknown flag --tempreature"),
        ("sample --config=a --workdir=b --checkpoint=c --prompts=d --out=e --num_sample=1", "unknown flag --num_sample;"
         " did you mean --num_samples?"),
        ("sample --config=a --workdir=b --checkpoint=c --prompts=d --out=e --num_samples=0", "argument --num_samples:"
         " invalid positive int value: '0'"),
        ("export --config=a --workdir=b --stage=evaluate --out=c", "argument --stage: invalid choice: 'evaluate'"),
        ("ppo --config=no.py --workdir=w 5", "unexpected argument '5'; flags are written --name=value."),
        ("data", "the following arguments are required: COMMAND; see icegrt data --help"),
        ("data check --source=jsonl:a", "the following arguments are required: --kind"),
        ("data check --source=jsonl:a --kind=rankings", "argument --kind: invalid choice: 'rankings'"),
        ("data check --source=jsonl:a --kind=text --config.seed=1", "icegrt data reads no config, so it takes no"
         " --config.seed=1"),
        ("check-model", "the following arguments are required: --hf; see icegrt check-model --help"),
        ("check-model --hf=a --dtype=float16", "argument --dtype: invalid choice: 'float16'"),
        ("check-model --hf=a --tolerence=1", "unknown flag --tolerence; did you mean --tolerance?"),
        ("check-model --hf=a --config.seed=1", "icegrt check-model reads no config, so it takes no --config.seed=1"),
        ("check_model --hf=a", "unknown stage 'check_model'; did you mean check-model?"),
    ],
)  # fmt: skip
def test_a_bad_command_is_one_sentence_and_exit_code_2(calls, capsys, argv, message):
    assert answer(capsys, *argv.split()).startswith(message)
    assert not calls


@pytest.mark.parametrize(
    "override, message",
    [
        ("--config.sed=1", "unknown key --config.sed; did you mean --config.seed?"),
        ("--config.seed=one", "--config.seed expects an integer, got 'one'"),
        ("--config.batch_size=100", "batch_size=100 does not divide over 8 devices; use a multiple of 8."),
    ],
)
def test_a_bad_config_stops_before_anything_is_written(calls, capsys, file, tmp_path, override, message):
    assert answer(capsys, *ppo(file, tmp_path, override)).startswith(message)
    assert not calls and not (tmp_path / "run").exists()


def test_the_shipped_config_is_checked_too(capsys, tmp_path):
    command = ["ppo", f"--config={QUICKSTART}:smoke", f"--workdir={tmp_path / 'run'}"]
    assert "did you mean --config.ppo.kl.target?" in answer(capsys, *command, "--config.ppo.kl.targt=1")
    assert "ppo.kl.kind" in answer(capsys, *command, "--config.ppo.kl.kind=k9")
    assert not (tmp_path / "run").exists()


def test_what_is_doubtful_in_a_config_is_said_and_the_stage_runs(calls, capsys, file, tmp_path, monkeypatch):
    monkeypatch.setattr(cli.checks, "doubts", lambda *sections, **more: ["this is odd."])
    assert cli.main(ppo(file, tmp_path)) == 0
    assert capsys.readouterr().err == "warning: this is odd.\n"
    assert len(calls) == 1


def test_a_rerun_with_another_config_is_refused(calls, capsys, file, tmp_path):
    assert cli.main(ppo(file, tmp_path)) == 0
    assert "seed 0 → 1" in answer(capsys, *ppo(file, tmp_path, "--config.seed=1"))
    assert cli.main(ppo(file, tmp_path, "--config.log.every=5")) == 0
    assert len(calls) == 2


def test_a_stage_that_refuses_its_input_leaves_no_workdir(calls, capsys, file, tmp_path, monkeypatch):
    def main(config, workdir):
        raise UserError("rows.jsonl, line 3: field 'ranks' is missing.")

    monkeypatch.setattr(sys.modules["icegrt_jax.commands.ppo"], "main", main)
    assert answer(capsys, *ppo(file, tmp_path)) == "rows.jsonl, line 3: field 'ranks' is missing."
    assert not (tmp_path / "run").exists()
    # So the corrected command is not refused as another config.
    assert cli.main(("sft", *ppo(file, tmp_path, "--config.seed=1")[1:])) == 0


def test_a_missing_extra_is_answered_with_the_pip_line(calls, capsys, file, tmp_path, monkeypatch):
    def main(config, workdir):
        raise ModuleNotFoundError("No module named 'lm_eval'", name="lm_eval")

    monkeypatch.setattr(sys.modules["icegrt_jax.commands.evaluate"], "main", main)
    line = answer(capsys, "evaluate", *ppo(file, tmp_path)[1:])
    assert line == 'lm_eval is not installed; pip install "icegrt_jax[eval]"'


def test_a_bug_keeps_its_traceback(calls, file, tmp_path, monkeypatch):
    def main(config, workdir):
        raise ValueError("ours")

    monkeypatch.setattr(sys.modules["icegrt_jax.commands.ppo"], "main", main)
    with pytest.raises(ValueError, match="ours"):
        cli.main(ppo(file, tmp_path))


def test_an_interrupt_exits_with_130(calls, file, tmp_path, monkeypatch):
    def main(config, workdir):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["icegrt_jax.commands.ppo"], "main", main)
    assert cli.main(ppo(file, tmp_path)) == 130


def test_help_lists_every_stage(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"\n    {name}\s", out) for name in commands.TABLE)


@pytest.mark.parametrize("stage", commands.TABLE)
def test_every_stage_has_help(stage, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([stage, "--help"])
    assert stop.value.code == 0
    assert ("--config.key=value" in capsys.readouterr().out) == (commands.TABLE[stage].reads != "files")


def test_the_module_runs_and_a_mistake_needs_no_jax():
    code = """
import sys
from icegrt_jax.cli import main
status = main(["ppo", "--config=no.py", "--workdir=w"])
heavy = {"jax", "flax", "numpy", "torch", "tensorflow", "transformers"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else status)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.startswith("error: config file no.py does not exist"), run.stderr
    run = subprocess.run([sys.executable, "-m", "icegrt_jax", "--help"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith("usage: icegrt STAGE")
