"""The script of docs/python.md, run as it stands but for the model and the number of its iterations."""

import json
import pathlib

from icegrt_jax import files
from tests.test_docs import blocks

# As in the examples of the docstrings, whose programs are compiled already.
SHORT = {"iterations=50": "iterations=2", "batch_size=64": "batch_size=8, max_response_length=4",
         "max_prompt_length=64": "max_prompt_length=128"}  # fmt: skip


def test_the_script_of_the_docs_trains_from_its_own_reward_saves_and_draws(models, tmp_path, monkeypatch, capsys):
    script = next(block for block in blocks("docs/python.md", "python") if "plt.savefig" in block)
    assert len([line for line in script.splitlines() if line.strip()]) <= 20
    for long, short in SHORT.items():
        assert long in script
        script = script.replace(long, short)
    run = tmp_path / "runs" / "quickstart"
    (run / "data").mkdir(parents=True)
    (run / "data" / "prompts.jsonl").write_text(json.dumps({"prompt": "the cat"}) + "\n")
    (run / "sft").symlink_to(models / "models" / "policy", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    exec(compile(script, "docs/python.md", "exec"), {"__name__": "script"})
    said = capsys.readouterr().out
    assert [line[0] for line in said.splitlines() if line[:2] in ("1 ", "2 ", "3 ")] == ["1", "2"]
    assert "response 1 of 8 to: the cat" in said
    assert files.read_json(pathlib.Path("runs/form/config.json"))["architectures"]
    assert pathlib.Path("runs/form.png").stat().st_size > 1000
