"""What README.md and docs/numerics.md say of a run is true of one."""

import pathlib
import re

import pytest

from icegrt_jax import files

ROOT = pathlib.Path(__file__).parent.parent
STAGES = ("pretrain", "sft", "reward", "ppo")

pytestmark = pytest.mark.slow


def test_the_python_of_the_readme_runs_after_a_quickstart(finished, tmp_path, monkeypatch):
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert snippets
    run = tmp_path / "runs" / "quickstart"
    run.mkdir(parents=True)
    for part in finished[0].iterdir():
        (run / part.name).symlink_to(part)
    monkeypatch.chdir(tmp_path)
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})
    assert (run / "export" / "model.safetensors").is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_every_metric_of_a_run_is_explained(finished, stage):
    rows = files.read_jsonl(finished[0] / stage / "metrics.jsonl")
    text = (ROOT / "docs" / "numerics.md").read_text(encoding="utf-8")
    names = {name for row in rows for name in row} - {"step"}
    assert names and {name for name in names if f"`{name}`" not in text} == set()
