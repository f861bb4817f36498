"""`icegrt people`: answers out as a blind CSV file, ratings in."""

import csv
import io
import json

import numpy as np
import pytest

from icegrt_jax import cli
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import rated, raters
from icegrt_jax.evaluation.asked.wording import CRITERIA
from icegrt_jax.evaluation.raters import Rating

SAID = ["=1+1", "-2\nnext line", '@SUM("a")', "\tindented", "plain; with, signs", "'quoted"]


@pytest.fixture
def answers(tmp_path):
    """Files of two stages; the second answers the last prompt as the first does."""
    paths = []
    for name, texts in (("ours", SAID), ("theirs", [*(f"other {i}" for i in range(5)), SAID[5]])):
        path = tmp_path / f"{name}.jsonl"
        rows = [{"prompt": f"+q{i}", "response": text} for i, text in enumerate(texts)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths.append(str(path))
    return paths


def write(answers, out, *flags):
    return cli.main(["people", "write", *(f"--answers={path}" for path in answers), f"--out={out}", *flags])


@pytest.fixture
def sheet(answers, tmp_path):
    """(rows of the empty file, its key)."""
    assert write(answers, tmp_path / "rate.csv") == 0
    key = json.loads((tmp_path / "rate.key.json").read_text())
    return rows_of(tmp_path / "rate.csv"), key


def rows_of(path):
    return list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))


def filled(path, rows, values, separator=","):
    """A rater's file: of each row {column: value}, as a spreadsheet saves it."""
    header, *others = rows
    lines = [[{**dict(zip(header, row)), **values(dict(zip(header, row)))}[name] for name in header] for row in others]
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([header, *lines])
    return f"--rated={path}"


def read(tmp_path, *rated_files):
    out = tmp_path / "people.json"
    code = cli.main(["people", "read", *rated_files, f"--key={tmp_path / 'rate.key.json'}", f"--out={out}"])
    return code, json.loads(out.read_text()) if out.exists() else None


def test_the_file_is_blind_shuffled_and_harmless(answers, sheet, tmp_path, capsys):
    rows, key = sheet
    assert tuple(rows[0]) == ("id", "prompt", "answer", *CRITERIA, "preference")
    assert len(rows) == 1 + 11, "what both have said is rated once"
    assert all(cells[3:] == [""] * 9 and "ours" not in "".join(cells) for cells in rows[1:])
    assert not [cell for cells in rows[1:] for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t")]
    assert {cells[2] for cells in rows[1:]} >= {"'=1+1", "'-2\nnext line", '\'@SUM("a")', "'\tindented", "'quoted"}
    assert all(cells[1].startswith("user: +q") for cells in rows[1:])
    order = [cells[1] for cells in rows[1:]]
    assert order != sorted(order) and [one for i, one in enumerate(order) if one in order[:i]] == [
        b for a, b in zip(order, order[1:]) if a == b
    ], "answers to a prompt stand together, the prompts in another order"
    firsts = {key["answers"][cells[0]]["of"][0][0] for cells in rows[1:] if cells[0].endswith("-1")}
    assert firsts == set(answers), "either stands first"
    before = (tmp_path / "rate.csv").read_bytes()
    assert before.startswith(b"\xef\xbb\xbf") and write(answers, tmp_path / "rate.csv") == 2
    assert "is there already, and may have been filled in" in capsys.readouterr().err
    assert write(answers, tmp_path / "same.csv") == write(answers, tmp_path / "other.csv", "--seed=1") == 0
    assert (tmp_path / "same.csv").read_bytes() == before != (tmp_path / "other.csv").read_bytes()
    assert write(answers, tmp_path / "few.csv", "--limit=2") == 0 and len(rows_of(tmp_path / "few.csv")) in (4, 5)


@pytest.mark.parametrize("text", ["=1", " =1", "\n=1", "＝1", "＋1", "-", "@x", "\ta", "\ra"])
def test_what_a_spreadsheet_would_run_has_an_apostrophe(text):
    assert raters.harmless(text) == f"'{text}"
    assert raters.harmless("a=1") == "a=1" and raters.harmless("") == "" and raters.harmless("a\0b") == "a\ufffdb"


def test_several_answers_of_a_stage_stand_in_the_file_where_asked_for(tmp_path):
    for name in ("a", "b"):
        row = {"prompt": "q", "responses": [f"{name}{i}" for i in range(3)], "ranks": [1, 1, 1]}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    assert write([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "r.csv", "--samples=2") == 0
    assert sorted(cells[2] for cells in rows_of(tmp_path / "r.csv")[1:]) == ["a0", "a1", "b0", "b1"]


def test_ratings_become_a_table_by_stage(answers, sheet, tmp_path, capsys):
    pytest.importorskip("krippendorff", reason="needs the extra people")
    rows, key = sheet
    ours = lambda row: answers[0] in [of for of, _ in key["answers"][row["id"]]["of"]]
    first = filled(tmp_path / "ann.csv", rows, lambda row: {
        **dict.fromkeys(CRITERIA, "4" if ours(row) else "2,0"), "preference": "1" if ours(row) else "2"
    }, ";")  # fmt: skip
    second = filled(tmp_path / "bob.csv", rows, lambda row: {"safety": "5" if ours(row) else " 1 "}, "\t")
    code, found = read(tmp_path, first, second)
    assert code == 0 and found["raters"] == ["ann", "bob"] and found["ratings"] == 22
    mine, other = (found["rows"][path] for path in answers)
    assert mine["clarity"] == {"value": 4.0, "interval": [4.0, 4.0], "prompts": 6}
    # Five prompts of its own, and one answer that is ours as well.
    assert other["clarity"]["value"] == pytest.approx((5 * 2 + 4) / 6)
    assert other["safety"]["value"] == pytest.approx((5 * 1.5 + 4.5) / 6)
    assert other["safety"]["interval"][0] < other["safety"]["value"] < other["safety"]["interval"][1]
    [preferred] = found["preferred"]
    assert (preferred["row"], preferred["over"]) == tuple(answers)
    assert preferred["value"] == pytest.approx((5 + 0.5) / 6) and preferred["prompts"] == 6
    assert 0.5 < found["agreement"]["safety"]["alpha"] < 1.0 and found["agreement"]["safety"]["answers"] == 11
    assert found["agreement"]["clarity"] == {"alpha": None, "answers": 0}
    printed = capsys.readouterr().out
    assert "Krippendorff's alpha" in printed and "preferred over" in printed and "4.00 [4.00, 4.00]" in printed


def test_agreement_is_krippendorffs_alpha():
    """The library's numbers on the example of Krippendorff 2011, table C, ordinal."""
    pytest.importorskip("krippendorff", reason="needs the extra people")
    nan = np.nan
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
        [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
    ]
    said = [
        Rating(str(unit), str(rater), {"clarity": int(value)}, None)
        for rater, values in enumerate(table)
        for unit, value in enumerate(values)
        if value == value
    ]
    found = rated.agreement(said)["clarity"]
    assert found["alpha"] == pytest.approx(0.815, abs=5e-4) and found["answers"] == 11


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"clarity": "6"}, "row 3, column clarity: '6'; expected a whole number from 1 to 5, or nothing."),
        ({"safety": "good"}, "row 3, column safety: 'good'; expected a whole number from 1 to 5"),
        ({"context": "3.5"}, "row 3, column context: '3.5'; expected a whole number"),
        ({"preference": "0"}, "row 3, column preference: '0'; expected a whole number from 1 on, 1 for the best"),
        ({"id": "99-1"}, "row 3, column id: '99-1' is none of the key's; leave this column as it was."),
        ({"answer": "of another row"}, "row 3, column answer: not the answer that was written for"),
    ],
)
def test_a_wrong_cell_is_named_by_file_row_and_column(sheet, tmp_path, capsys, change, problem):
    rows, _ = sheet
    third = rows[2][0]
    own = filled(tmp_path / "ann.csv", rows, lambda row: {"clarity": "3", **(change if row["id"] == third else {})})
    assert read(tmp_path, own) == (2, None)
    assert capsys.readouterr().err.strip().startswith(f"error: {tmp_path / 'ann.csv'}, {problem}")


def test_a_wrong_file_is_named(sheet, tmp_path, capsys):
    rows, _ = sheet
    twice = [*rows, rows[1]]
    for name, content, problem in (
        ("twice", twice, f"row 13, column id: {rows[1][0]} stands in row 2 as well; keep one of them."),
        ("empty", rows, "nothing is filled in; expected numbers in the columns clarity,"),
        ("few", [row[:-1] for row in rows], "row 1: no column"),
        ("two", [[*row, "clarity" if not i else ""] for i, row in enumerate(rows)], "row 1: two columns clarity"),
    ):
        path = tmp_path / f"{name}.csv"
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(content)
        assert read(tmp_path, f"--rated={path}") == (2, None)
        assert f"{path}" in (error := capsys.readouterr().err) and problem in error
    (tmp_path / "latin.csv").write_bytes("id,é".encode("latin-1"))
    assert read(tmp_path, f"--rated={tmp_path / 'latin.csv'}") == (2, None)
    assert "not in UTF-8" in capsys.readouterr().err
    same = f"--rated={tmp_path / 'empty.csv'}"
    assert read(tmp_path, same, same) == (2, None) and "give each its own" in capsys.readouterr().err
    (tmp_path / "rate.key.json").write_text("{}")
    assert read(tmp_path, same) == (2, None) and "this is no key" in capsys.readouterr().err
    with pytest.raises(UserError, match="^--key=none: no such file"):
        raters.read_key("none")
