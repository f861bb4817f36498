"""`icegrt evaluate-reward` on tiny models: what is printed, what is written, and what is refused."""

import json

import pytest

from icegrt_jax import cli
from icegrt_jax.data.tokenizers import wrap
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.hf.folder import save_hf
from tests.commands.reward_folders import SHAPE, tiny_folder
from tests.data.templates import make
from tests.models.examples import make_params

ROWS = [
    {"prompt": f"Is {n} odd?", "responses": [f"Yes, {n} is.", "No.", "Maybe, who knows."], "ranks": [1, 2, 3]}
    for n in range(6)
]
PARTS = [
    {"id": f"{kind}:{n}", "prompt": f"A colour {kind} {n}?", "subset": "Ties", "rejected": ["dog", f"cat {n}"],
     "chosen": ["red"] if kind == "ref" else ["red", "blue"]}
    for n in range(2) for kind in ("ref", "tied")
]  # fmt: skip
PARTS += [{"id": n, "prompt": f"{n}?", "chosen": [f"{n}"], "rejected": ["a", "b"], "subset": "Math"} for n in range(4)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    tokenizer = wrap(make("chatml"))
    tiny_folder(root / "reward", tokenizer)
    tiny_folder(root / "policy", tokenizer, scalar_head=False)
    for name, rows in (("own", ROWS), ("ties", PARTS)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = root / "data" / "preference" / "llmbar"
    data.mkdir(parents=True)
    row = {"prompt": "Sum of 1 and 2?", "chosen": "3", "rejected": "It is surely 4."}
    rows = [{**row, "subset": name} for name in ("Natural", "Manual", "Natural")]
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def evaluate(folders, out, *flags):
    return cli.main(["evaluate-reward", f"--reward={folders / 'reward'}", f"--out={out}", *flags])


def test_the_tables_and_the_file_say_the_same(folders, tmp_path, capsys):
    out, policy = tmp_path / "new" / "reward.json", f"--policy={folders / 'policy'}"
    sources = [f"--source=mine=jsonl:{folders}/own.jsonl", f"--source=reward_bench_2:{folders}/ties.jsonl"]
    assert evaluate(folders, out, policy, *sources) == 0
    printed, found = capsys.readouterr().out, json.loads(out.read_text())
    assert list(found["sources"]) == ["mine", "reward_bench_2"] and found["lineage"]["same"]
    mine, ties = found["sources"].values()
    assert mine["counts"] == {"records": 6, "dropped": 0, "answers": 18, "cut": 0}
    accuracy = mine["numbers"]["accuracy"]
    shown = f"{100 * accuracy['value']:.1f} % [{100 * accuracy['low']:.0f}, {100 * accuracy['high']:.0f}]"
    assert shown in printed and sum(mine["reliability"]["count"]) == 18  # pairs
    assert [one["n"] for one in mine["best_of_n"]] == [2, 3]
    assert set(ties["parts"]) == {"Ties", "Math"}
    score = {name: part["score"]["value"] for name, part in ties["parts"].items()}
    assert ties["numbers"]["score"]["value"] == pytest.approx((score["Ties"] + score["Math"]) / 2)
    assert score["Math"] == ties["parts"]["Math"]["best"]["value"]
    assert "reward_bench_2/Ties" in printed and "warning" not in printed


def test_without_sources_it_reads_what_is_in_the_data_folder(folders, tmp_path, capsys):
    assert evaluate(folders, tmp_path / "a.json", f"--data_dir={folders / 'data'}", "--limit=2") == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert list(found["sources"]) == ["llmbar"] and found["sources"]["llmbar"]["counts"]["records"] == 2
    assert found["lineage"]["same"] is None
    assert "its lineage is not compared with a policy's; name one, --policy." in capsys.readouterr().out


def test_a_policy_of_another_lineage_is_a_warning(folders, tmp_path, capsys):
    policy, tokenizer = tmp_path / "policy", wrap(make("chatml"))
    config = ModelConfig(vocab_size=tokenizer.vocab_size, tie_embeddings=False, **{**SHAPE, "num_layers": 2})
    save_hf(policy, config, make_params(config), tokenizer)
    given = f"--source=jsonl:{folders}/own.jsonl", f"--policy={policy}"
    assert evaluate(folders, tmp_path / "a.json", *given) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning:")]
    assert "other shapes: num_layers 1 and 2" in line and "2506.01937" in line and str(policy) in line


def test_scores_that_records_came_with_are_their_quality(folders, tmp_path, capsys):
    rows = [{"prompt": "?", "responses": ["a", "b"], "scores": [5.0, 1.0]}, {"prompt": "!", "responses": ["a", "b"],
            "scores": [2.0, 4.0]}]  # fmt: skip
    (tmp_path / "kway.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = f"--source=jsonl:{tmp_path}/kway.jsonl"
    assert evaluate(folders, tmp_path / "a.json", given, "--quality=scores") == 0
    ((one,),) = [source["best_of_n"] for source in json.loads((tmp_path / "a.json").read_text())["sources"].values()]
    assert (one["n"], one["random"], one["best"]) == (2, 3.0, 4.5) and one["taken"]["value"] in (1.5, 3.5, 2.5, 4.5)
    capsys.readouterr()
    assert evaluate(folders, tmp_path / "b.json", f"--source=jsonl:{folders}/own.jsonl", "--quality=scores") == 2
    assert "line 1: --quality=scores, and the record came without a score" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--source=jsonl:{}/nothing.jsonl"], "nothing.jsonl: no such file; check the source's path and data_dir."),
        (["--source=jsonl:{0}/own.jsonl", "--source=own=jsonl:{0}/own.jsonl"], "give each source a name of its own"),
        (["--data_dir={}"], "no --source, and none of llmbar:preference/llmbar/test.jsonl, pandalm:"),
        (["--source=jsonl:{}/own.jsonl", "--out=here.txt"], "--out=here.txt: expected the name of a file that ends in"),
        (["--source=jsonl:{}/own.jsonl", "--reward={}/policy"], "policy: holds a language model, no reward."),
    ],
)
def test_what_is_wrong_is_one_sentence_and_no_file(folders, tmp_path, capsys, flags, message):
    assert evaluate(folders, tmp_path / "a.json", *(flag.format(folders) for flag in flags)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
