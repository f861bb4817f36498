"""What a notebook shows of a user's mistake."""

import re

import pytest

from icegrt_jax.errors import UserError

# {the last line of a cell: what is shown below it}
MISTAKES = {
    'ice.load_model("nowhere")': [
        "UserError: nowhere: no model here; expected a Hugging Face folder with config.json."
    ],
    # Other errors stand before this one, the first of them a library's.
    'ice.load_model("damaged")': [
        "UserError: damaged/tokenizer_config.json: not valid JSON (Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1))."
    ],
    "raise noted": ["UserError: mend it", "as a reward function said it"],
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_notebook_shows_the_line_and_the_sentence(tmp_path, monkeypatch, capsys, line):
    shells = pytest.importorskip("IPython.core.interactiveshell", reason="a notebook's own: pip install -e '.[test]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "damaged").mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / "damaged" / name).write_text("{")
    noted = UserError("mend it")
    noted.add_note("as a reward function said it")
    shell = shells.InteractiveShell(user_ns={"noted": noted})
    assert shell.run_cell(f"import icegrt_jax as ice\n{line}").error_in_exec is not None
    where, *shown = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out).splitlines()
    assert re.fullmatch(r'  File "<ipython-input-\S+>", line 2, in <module>', where)
    assert [text for text in shown if text.strip("^ ")] == [f"    {line}", *MISTAKES[line]]
