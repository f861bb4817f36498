"""Data as they lie, in the shapes of those who published them, trained on without a line being converted."""

import csv
import json
import os
import pathlib

import pyarrow
import pyarrow.parquet
import pytest

from icegrt_jax import cli, files
from icegrt_jax.data.records import Instruction, Ranking
from icegrt_jax.data.sources import load_source
from icegrt_jax.data.tokenizers import train_bpe
from icegrt_jax.training.metrics import read_metrics
from tests.commands.reward_folders import tiny_folder

DATA = pathlib.Path(os.environ.get("ICEGRT_DATA", "/no/such/folder"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs the public data sets: set ICEGRT_DATA")

SFT = {  # shape: source, records
    "alpaca": ("jsonl:instruct/self_instruct_seed/all.jsonl", 175),
    "columns": ("jsonl:bench/gsm8k/train.jsonl?prompt=question&response=answer", 1000),
    "choices": ("ecqa:domain/ecqa/official_test.jsonl.gz", 2194),
}
REWARD = {
    "transcripts": ("jsonl:preference/hh_rlhf/heldout.jsonl.gz?shape=transcript", 907),
    "scores": ("jsonl:preference/comve_reasons_kway/test.jsonl", 1000),
}
PROMPTS = ("jsonl:prompts/rl_train.jsonl.gz", 5150)  # our own columns, among others
CONFIG = """
from icegrt_jax.config import default_config

def get_config(switch=""):
    c = default_config()
    c.model.path, c.pretrain.steps = {model!r}, 0
    c.max_prompt_length, c.max_response_length = 96, 4
    c.sft.steps, c.sft.batch_size, c.sft.length, c.sft.overlong = 3, 8, 384, "cut"
    c.reward.steps, c.reward.batch_size, c.reward.length, c.reward.overlong = 3, 8, 384, "cut"
    c.reward.normalize_on = 8
    for name, spec in {sft!r}.items():
        c.sft.sources[name], c.sft.weights[name] = spec, 1.0
    for name, spec in {reward!r}.items():
        c.reward.sources[name], c.reward.weights[name] = spec, 1.0
    c.ppo.sources.a, c.ppo.weights.a = {prompts!r}, 1.0
    return c
"""


def config_file(folder, **sources):
    """A config that trains a tiny model on the sources."""
    texts = [
        "Question: Where do people live? Answer: The house.",
        "Human: I would like it. Assistant: Yes, the",
        "0123",
    ]
    tiny_folder(folder / "model", train_bpe(texts * 9, 320, folder / "tokenizer"), scalar_head=False)
    specs = {group: {name: spec for name, (spec, _) in given.items()} for group, given in sources.items()}
    text = CONFIG.format(model=str(folder / "model"), prompts=PROMPTS[0], **specs)
    (folder / "config.py").write_text(text)
    return f"--config={folder / 'config.py'}"


@needs_data
@pytest.mark.slow
def test_five_data_sets_of_five_foreign_shapes_are_trained_on_as_they_lie(tmp_path):
    config, workdir = config_file(tmp_path, sft=SFT, reward=REWARD), tmp_path / "run"
    for stage, sources in (("sft", SFT), ("reward", REWARD)):
        assert cli.main([stage, config, f"--workdir={workdir}"]) == 0
        report = files.read_json(workdir / stage / "data.json")
        assert {name: report[name]["records"] for name in sources} == {name: n for name, (_, n) in sources.items()}
        assert all(report[name]["kept"] + report[name].get("cut", 0) > 0.25 * n for name, (_, n) in sources.items())
        assert read_metrics(workdir / stage / "metrics.jsonl")[-1]["step"] == 3


def foreign(folder: pathlib.Path, questions: list[dict], pairs: list[dict]) -> dict[str, tuple[str, type]]:
    """The same rows in the shapes of other tools, that are not among the data sets; sources and kinds."""

    def lines(name, rows):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    turns = [(row["question"], row["answer"]) for row in questions]
    talk = lambda q, a: [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
    lines("openai.jsonl", [{"messages": talk(q, a), "tools": []} for q, a in turns])
    lines("completion.jsonl", [{"prompt": talk(q, a)[:1], "completion": talk(q, a)[1:]} for q, a in turns])
    sharegpt = [{"id": i, "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
                for i, (q, a) in enumerate(turns)]  # fmt: skip
    (folder / "sharegpt.json").write_text(json.dumps(sharegpt))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(questions), folder / "questions.parquet")
    with open(folder / "questions.csv", "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(questions)
    whole = lambda row, name: f"\n\n{row['prompt']} {row[name]}"
    lines("hh.jsonl", [{name: whole(row, name) for name in ("chosen", "rejected")} for row in pairs])
    mapping = "?prompt=question&response=answer"
    return {
        "openai": (f"jsonl:{folder}/openai.jsonl", Instruction),
        "completion": (f"jsonl:{folder}/completion.jsonl", Instruction),
        "sharegpt": (f"json:{folder}/sharegpt.json", Instruction),
        "parquet": (f"parquet:{folder}/questions.parquet{mapping}", Instruction),
        "csv": (f"csv:{folder}/questions.csv{mapping}", Instruction),
        "hh": (f"jsonl:{folder}/hh.jsonl", Ranking),
    }


@needs_data
def test_the_same_records_in_the_shapes_of_other_tools_are_the_same_records(tmp_path):
    expected = {Instruction: load_source(SFT["columns"][0], kind=Instruction)[:200],
                Ranking: load_source(REWARD["transcripts"][0], kind=Ranking)[:200]}  # fmt: skip
    questions = [json.loads(line) for line in (DATA / "bench/gsm8k/train.jsonl").read_text().splitlines()[:200]]
    pairs = [
        {"prompt": row.prompt, "chosen": row.responses[0].strip(), "rejected": row.responses[1].strip()}
        for row in load_source("jsonl:preference/hh_rlhf/heldout.jsonl.gz", kind=Ranking)[:200]
    ]
    pairs = [{**row, "prompt": row["prompt"][0]["content"]} for row in pairs]
    for name, (spec, kind) in foreign(tmp_path, questions, pairs).items():
        loaded = load_source(spec, kind=kind)
        if kind is Ranking:
            stripped = [(r.prompt, tuple(x.strip() for x in r.responses)) for r in expected[kind]]
            assert [(r.prompt, r.responses) for r in loaded] == stripped, name
        else:
            assert loaded == expected[kind], name


def test_data_check_shows_the_first_record_or_a_mapping_to_paste(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"question": "Is 7 odd?", "answer": "Yes.", "id": 1}\n')
    check = lambda spec: cli.main(["data", "check", f"--source={spec}", "--kind=instruction", f"--data_dir={tmp_path}"])
    assert check("jsonl:rows.jsonl") == 2
    spec = capsys.readouterr().err.rpartition(" ")[2].strip()
    assert spec == "jsonl:rows.jsonl?prompt=question&response=answer"
    assert check(spec) == 0
    assert capsys.readouterr().out.splitlines()[:4] == [
        f"{tmp_path}/rows.jsonl, line 1: read as response: prompt from question, response from answer; not read: id",
        "  user: Is 7 odd?",
        "  assistant: Yes.",
        f"{spec}: 1 instruction records, all valid",
    ]
