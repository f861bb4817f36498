"""Rows of benchmarks of reward models, in the forms in which they are published."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from icegrt_jax.data.records import Ranking
from icegrt_jax.data.sources import load_source
from icegrt_jax.errors import UserError

VOTES = {"annotator1": 1, "annotator2": 2, "annotator3": 1}
ROWS = {
    "llmbar": [
        {"input": "Sum of 1 and 2?", "output_1": "4", "output_2": "3", "label": 2},
        {"prompt": "Sum?", "chosen": "3", "rejected": "4", "subset": "Natural"},
    ],
    "pandalm": [
        {"instruction": "Add.", "input": "1, 2", "response1": "3", "response2": "", **VOTES},
        {"instruction": "Add.", "input": "", "response1": "3", "response2": "3.", **VOTES, "annotator1": 0},
        {"prompt": "Add.", "response_1": "4", "response_2": "3", "majority": 2},
        {"prompt": "Add.", "response_1": "4", "response_2": "3", "majority": 0},
    ],
    "reward_bench_2": [
        {"id": "7", "prompt": "Add.", "chosen": ["3"], "rejected": ["4", "5", "6"], "subset": "Math", "num_correct": 1},
        {"id": "tied:0", "prompt": "A colour?", "chosen": ["red", "blue"], "rejected": ["dog"], "subset": "Ties"},
    ],
    "rm_bench": [
        {"id": 8, "prompt": "Add.", "chosen": ["3", "It is 3.", "**3**"], "rejected": ["4", "It is 4.", "**4**"],
         "domain": "safety-refuse"},
        {"id": 9, "prompt": "Add.", "chosen": ["3"], "rejected": ["4"], "subset": "alpacaeval"},
    ],
    "judge_bench": [
        {"pair_id": "a", "source": "mmlu-pro-law", "question": "Q", "response_A": "x", "response_B": "y",
         "label": "B>A"},
        {"pair_id": "b", "source": "livecodebench", "question": "Q", "response_A": "x", "response_B": "y",
         "label": "A>B"},
    ],
}  # fmt: skip
READ = {  # responses, ranks, meta
    "llmbar": [(("4", "3"), (2, 1), {}), (("3", "4"), (1, 2), {"subset": "Natural"})],
    "pandalm": [
        (("3", ""), (1, 2), {}), (("3", "3."), (1, 1), {}), (("4", "3"), (2, 1), {}), (("4", "3"), (1, 1), {})
    ],
    "reward_bench_2": [
        (("3", "4", "5", "6"), (1, 2, 2, 2), {"id": "7", "subset": "Math"}),
        (("red", "blue", "dog"), (1, 1, 2), {"id": "tied:0", "subset": "Ties"}),
    ],
    "rm_bench": [
        (("3", "It is 3.", "**3**", "4", "It is 4.", "**4**"), (1, 1, 1, 2, 2, 2),
         {"id": 8, "subset": "safety", "styles": [0, 1, 2, 0, 1, 2]}),
        (("3", "4"), (1, 2), {"id": 9, "styles": [0, 0]}),
    ],
    "judge_bench": [(("x", "y"), (2, 1), {"subset": "mmlu-pro"}), (("x", "y"), (1, 2), {"subset": "livecodebench"})],
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_benchmark_is_read_as_its_authors_publish_it(name, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS[name]))
    found = load_source(f"{name}:{path}", kind=Ranking)
    assert [(record.responses, record.ranks, record.meta) for record in found] == READ[name]


def test_the_hubs_parquet_and_json_lines_are_the_same(tmp_path):
    rows = ROWS["reward_bench_2"]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [load_source(f"reward_bench_2:{tmp_path}/rows.{suffix}", kind=Ranking) for suffix in ("parquet", "jsonl")]
    assert found[0] == found[1] and len(found[0]) == 2


def test_pandalms_input_belongs_to_the_prompt(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps(ROWS["pandalm"][:1]))
    (record,) = load_source(f"pandalm:{tmp_path}/rows.json", kind=Ranking)
    assert record.prompt[0]["content"] == "Add.\n\n1, 2"


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("judge_bench", {"label": "A=B"}, "field 'label' is 'A=B'; expected one of 'A>B', 'B>A'."),
        ("llmbar", {"label": True}, "field 'label' is True; expected one of 1, 2."),
        ("rm_bench", {"rejected": ["4"]}, "field 'rejected' is ['4']; expected 3 answers, in the styles of 'chosen'."),
        ("reward_bench_2", {"prompt": " "}, "field 'prompt' is empty; write some text or remove the line."),
    ],
)
def test_another_row_is_an_error_with_its_place(name, change, message, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**ROWS[name][0], **change}) + "\n")
    with pytest.raises(UserError) as error:
        load_source(f"{name}:{path}", kind=Ranking)
    assert str(error.value) == f"{path}, line 1: {message}"
