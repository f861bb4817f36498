"""The notebook, executed from top to bottom with the smoke config, and what is said about such a run."""

import pathlib
import re

import pytest

from icegrt_jax import files
from tests.commands.runs import one_device

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
OWN_REWARD = ROOT / "notebooks" / "own_reward.ipynb"
STAGES = ("pretrain", "sft", "reward", "ppo")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook with its outputs, and the folder under which its run is runs/quickstart."""
    reason = "nbclient runs the notebook: pip install -e '.[test]'"
    nbformat = pytest.importorskip("nbformat", reason=reason)
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICEGRT_NOTEBOOK_CONFIG", f"{ROOT / 'configs' / 'quickstart.py'}:smoke")
        patch.setenv("ICEGRT_NOTEBOOK_WORKDIR", str(folder / "runs" / "quickstart"))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("XLA_FLAGS", one_device()["XLA_FLAGS"])  # as in a user's session
        client = nbclient.NotebookClient(
            notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        )
        client.execute()  # raises at the first cell that fails
    return notebook, folder


def printed(notebook):
    """Everything written to stdout, as one text."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")


def test_every_cell_runs_and_the_table_and_three_prompts_are_shown(executed):
    notebook, _ = executed
    text = printed(notebook)
    for row in ("base", "ICE-Instruct", "best-of-8", "ICE-GRT"):
        assert re.search(rf"^{row} .*%", text, re.MULTILINE), f"no row {row!r} in the table"
    assert re.search(r"^ +verdict +analysis +gold", text, re.MULTILINE)
    assert text.count("\n> review this ad.") == 3


def test_every_stage_draws_its_curves_once(executed):
    notebook, _ = executed
    pictures = [
        sum("image/png" in output.get("data", {}) for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code" and "_figure(" in cell.source
    ]
    assert pictures == [1, 1, 2, 1, 1]


def test_the_notebook_of_a_reward_function_draws_its_curve_and_a_response(executed):
    _, folder = executed
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(OWN_REWARD, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICEGRT_NOTEBOOK_RUN", str(folder / "runs" / "quickstart"))
        patch.setenv("ICEGRT_NOTEBOOK_ITERATIONS", "2")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("XLA_FLAGS", one_device()["XLA_FLAGS"])
        where = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    shown = [output.get("data", {}) for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in data for data in shown) == 1
    assert sum("<table>" in data.get("text/html", "") for data in shown) == 1
    assert "2: form " in printed(notebook) and "after PPO: " in printed(notebook)


@pytest.mark.parametrize("path", [NOTEBOOK, OWN_REWARD], ids=lambda path: path.stem)
def test_the_notebook_is_stored_without_outputs_and_defines_nothing(path):
    nbformat = pytest.importorskip("nbformat", reason="nbformat reads the notebook: pip install -e '.[test]'")
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert not any(re.search(r"^\s*(def|class|async def)\b|lambda", cell.source, re.MULTILINE) for cell in cells)


def test_the_python_of_the_readme_runs_after_a_quickstart(executed, monkeypatch):
    _, folder = executed
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert snippets
    monkeypatch.chdir(folder)
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})


@pytest.mark.parametrize("stage", STAGES)
def test_every_metric_of_a_run_is_explained(executed, stage):
    _, folder = executed
    rows = files.read_jsonl(folder / "runs" / "quickstart" / stage / "metrics.jsonl")
    text = (ROOT / "docs" / "numerics.md").read_text(encoding="utf-8")
    names = {name for row in rows for name in row} - {"step"}
    assert names and {name for name in names if f"`{name}`" not in text} == set()
