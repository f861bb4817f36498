"""The notebooks, executed from top to bottom in their small setting, one after another in one folder."""

import pathlib
import re

import pytest

from tests.commands.runs import one_device

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
# In this order: the first one leaves ICE-Instruct, with which the others begin.
ORDER = ("quickstart", "reward_model", "ppo_lab", "bring_your_model")

pytestmark = pytest.mark.slow


def read(name):
    nbformat = pytest.importorskip("nbformat", reason="nbformat reads the notebooks: pip install -e '.[test]'")
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """{name: the notebook with its outputs}; all have one working folder, one kernel after another."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient runs the notebooks: pip install -e '.[test]'")
    pytest.importorskip("ipykernel", reason="the notebooks run in it: pip install -e '.[test]'")
    folder, found = tmp_path_factory.mktemp("notebooks"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICEGRT_NOTEBOOK_SMALL", "1")
        patch.setenv("ICEGRT_NOTEBOOK_MODEL", "models/policy")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("XLA_FLAGS", one_device()["XLA_FLAGS"])  # as in a user's session
        for name in ORDER:
            notebook, where = read(name), {"metadata": {"path": str(folder)}}
            client = nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=where)
            client.execute()  # raises at the first cell that fails
            found[name] = notebook
    return found


def outputs(notebook, beginning):
    """What the cell with this line has shown: a MIME bundle each."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and beginning in cell.source]
    assert len(cells) == 1, f"{len(cells)} cells with {beginning!r}"
    return [output.get("data", {}) for output in cells[0].outputs]


def rows(bundle):
    """Of a table the texts of its cells."""
    found = re.findall(r"<tr>(.*?)</tr>", bundle["text/html"], re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in found]


def test_all_notebooks_are_these():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(ORDER)


def test_the_quickstart_draws_every_stage_and_grades_it(executed):
    notebook = executed["quickstart"]
    for stage in ("ice.pretrain(", "ice.sft(", "ice.train_reward(", "ice.ppo("):
        assert any("image/png" in data for data in outputs(notebook, stage)), stage
    (table,) = outputs(notebook, "nb.graded(models")
    assert [row[0] for row in rows(table)] == ["model", "base", "ICE-Instruct", "ICE-GRT"]
    assert rows(table)[0][1:] == ["verdict", "analysis", "gold", "false_clear"]
    (heldout,) = outputs(notebook, "ice.train_reward(")[-1:]
    assert "heldout/accuracy" in heldout["text/plain"]


def test_the_reward_model_learns_from_the_orders_in_the_notebook_and_is_looked_into(executed):
    notebook = executed["reward_model"]
    (letters,) = outputs(notebook, "nb.to_rank(")
    assert rows(letters)[0] == ["prompt", "A", "B", "C"] and len(rows(letters)) == 7
    assert outputs(notebook, "orders = [")[0]["text/plain"] == "5"
    assert "image/png" in outputs(notebook, "nb.calibration(")[0]
    (tokens,) = outputs(notebook, "best = one.responses")
    assert tokens["text/html"].count("<span") > 3


def test_a_changed_coefficient_changes_the_curve_of_ppo(executed):
    """The two trainings of `ppo_lab` are the same to the change, and apart after it."""
    notebook = executed["ppo_lab"]
    assert any("image/png" in data for data in outputs(notebook, '"changed": changed}, "kl"'))
    (table,) = outputs(notebook, "last = {name")
    (_, *alone), (_, *changed) = rows(table)[1:]
    assert float(alone[0]) != float(changed[0]), "the KL"
    (same,) = [d["text/plain"] for d in outputs(notebook, "before = ")]
    assert same == "True"


def test_a_response_is_shown_token_by_token(executed):
    (shown,) = outputs(executed["ppo_lab"], "paused.scaled.argmax()")
    assert rows(shown)[0] == ["token", "log-prob", "reference", "value", "advantage", "reward"]


def test_a_folder_and_a_file_become_an_expert(executed):
    notebook = executed["bring_your_model"]
    (table,) = outputs(notebook, "nb.graded(")
    assert [row[0] for row in rows(table)] == ["model", "your model", "ICE-Instruct", "ICE-GRT"]
    assert "model.safetensors" in outputs(notebook, "ice.save_model(")[0]["text/plain"]


@pytest.mark.parametrize("name", ORDER)
def test_nothing_is_said_on_stderr_which_a_notebook_shows_in_red(executed, name):
    said = [output.text for cell in executed[name].cells for output in cell.get("outputs", ())
            if output.get("name") == "stderr"]  # fmt: skip
    assert not said


@pytest.mark.parametrize("name", ORDER)
def test_a_notebook_is_stored_without_outputs_defines_nothing_and_installs_first(name):
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    own = [cell.source for cell in cells if not cell.source.startswith("%%writefile")]  # which is the user's own file
    assert not any(re.search(r"^\s*(def|class|async def)\b|lambda", source, re.MULTILINE) for source in own)
    assert 'find_spec("icegrt_jax") is None' in cells[0].source and "git clone" in cells[0].source


def test_the_readme_has_a_badge_for_each():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ORDER:
        assert re.search(rf"colab\.research\.google\.com/github/\S+/notebooks/{name}\.ipynb", text), name
