"""`icegrt sample`: answers to be ranked, as records that the reward stage reads."""

import jax
import pytest

from icegrt_jax import cli
from icegrt_jax.api import load_model
from icegrt_jax.data.records import Instruction, Prompt, Ranking, read_jsonl
from icegrt_jax.runs.session import STREAMS
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.sampling.generate import generate, generate_batches
from tests.commands.reward_folders import tiny_folder
from tests.commands.runs import call, copy_parts
from tests.data.second_tokenizer import second_tokenizer


@pytest.fixture
def workdir(finished, tmp_path):
    return copy_parts(finished, tmp_path / "run", "data", "tokenizer", "sft")


def sample(workdir, out, *more, checkpoint="sft"):
    source = "--prompts=jsonl:{workdir}/data/ranking_prompts.jsonl"
    return call("sample", workdir, f"--checkpoint={checkpoint}", source, f"--out={out}", "--max_new_tokens=6", *more)


def test_a_sampled_file_is_a_source_of_rankings(workdir, tmp_path, capsys):
    out = tmp_path / "to_rank.jsonl"
    assert sample(workdir, out, "--num_samples=3") == 0
    rankings = read_jsonl(out, Ranking)
    prompts = read_jsonl(workdir / "data" / "ranking_prompts.jsonl", Prompt)
    assert [r.prompt for r in rankings] == [p.prompt for p in prompts]
    assert [r.meta for r in rankings] == [p.meta for p in prompts]
    for ranking in rankings:
        assert len(set(ranking.responses)) == len(ranking.responses) and 2 <= len(ranking.responses) <= 3
        assert set(ranking.ranks) == {1.0}, "nobody has ranked them yet"
    assert f"{out}: 8 prompts to rank" in capsys.readouterr().out
    assert sample(workdir, tmp_path / "again.jsonl", "--num_samples=3") == 0
    assert (tmp_path / "again.jsonl").read_bytes() == out.read_bytes()


@pytest.mark.parametrize("temperature", [0, 1])
def test_one_answer_each_is_a_source_of_conversations(workdir, tmp_path, capsys, temperature):
    out = tmp_path / "answers.jsonl"
    assert sample(workdir, out, "--num_samples=1", f"--temperature={temperature}") == 0
    prompts = read_jsonl(workdir / "data" / "ranking_prompts.jsonl", Prompt)
    records = read_jsonl(out, Instruction)
    assert records and f"{out}: {len(records)} prompts with their answer" in capsys.readouterr().out
    asked = [(p.prompt, p.meta) for p in prompts]
    assert all((r.messages[:-1], r.meta) in asked for r in records)
    model = load_model(workdir / "sft")
    greedy = generate(model, [r.messages[:-1] for r in records], key=jax.random.key(0), max_new_tokens=6, temperature=0)
    assert (greedy.text == [r.messages[-1]["content"] for r in records]) == (temperature == 0)
    assert cli.main(["data", "check", f"--source=jsonl:{out}", "--kind=instruction"]) == 0


def test_a_folder_is_asked_with_its_own_tokenizer(workdir, tmp_path):
    tokenizer = second_tokenizer(tmp_path / "tokenizer")
    config, params = tiny_folder(tmp_path / "model", tokenizer, scalar_head=False, rows=tokenizer.vocab_size)
    out = tmp_path / "to_rank.jsonl"
    assert sample(workdir, out, "--num_samples=2", checkpoint=tmp_path / "model") == 0
    prompts = read_jsonl(workdir / "data" / "ranking_prompts.jsonl", Prompt)
    sampler = SamplerConfig(max_new_tokens=6, eos_ids=tokenizer.eos_ids, pad_id=tokenizer.pad_id)
    key = jax.random.fold_in(jax.random.key(0), STREAMS["sample"])
    texts = generate_batches(
        key, params, config, tokenizer, [prompt.prompt for prompt in prompts], sampler, num_samples=2, batch_size=8
    ).text
    answers = [tuple(text for text in dict.fromkeys(texts[i : i + 2]) if text.strip()) for i in range(0, len(texts), 2)]
    assert [ranking.responses for ranking in read_jsonl(out, Ranking)] == [pair for pair in answers if len(pair) > 1]


def test_a_stage_of_any_run_is_asked_by_its_path(workdir, tmp_path):
    named, by_path = tmp_path / "named.jsonl", tmp_path / "by_path.jsonl"
    assert sample(workdir, named, "--num_samples=2", checkpoint="sft") == 0
    assert sample(workdir, by_path, "--num_samples=2", checkpoint=workdir / "sft") == 0
    assert by_path.read_text() == named.read_text() != ""


@pytest.mark.parametrize(
    "more, checkpoint, message",
    [
        (["--temperature=0"], "sft", "--temperature=0 gives the same answer 4 times, and nothing to rank"),
        (["--temperature=-1"], "sft", "--temperature: invalid number of 0 or more value: '-1'"),
        (["--temperature=nan"], "sft", "--temperature: invalid number of 0 or more value: 'nan'"),
        (["--temperature=inf"], "sft", "--temperature: invalid number of 0 or more value: 'inf'"),
        (["--num_samples=0"], "sft", "--num_samples: invalid positive int value: '0'"),
        (["--out=rows.json"], "sft", "--out=rows.json; expected a name ending in .jsonl."),
        ([], "ppo", "the ppo stage has not finished; run `icegrt ppo` first."),
        ([], "no/such/model", "no/such/model"),
    ],
)
def test_what_cannot_be_sampled_is_refused_and_nothing_written(workdir, tmp_path, capsys, more, checkpoint, message):
    out = tmp_path / "out.jsonl"
    assert sample(workdir, out, *more, checkpoint=checkpoint) == 2
    assert message in capsys.readouterr().err and not out.exists()


def test_every_random_choice_has_a_stream_of_its_own():
    assert len(set(STREAMS.values())) == len(STREAMS)
