"""What a run will read is opened and checked before its first step."""

import json
import shutil

import pytest

from icegrt_jax import cli, commands
from icegrt_jax.commands import evaluate
from icegrt_jax.config import default_config, read
from icegrt_jax.data.sources import load_source
from icegrt_jax.data.tokenizers import train_bpe
from icegrt_jax.errors import UserError
from icegrt_jax.runs import inputs
from tests.commands.reward_folders import tiny_folder
from tests.commands.runs import call

STAGES = tuple(command.get("STAGE") for command in commands.in_run())
TURN = {"prompt": "Is 7 odd?", "response": "Yes."}
PAIR = {"prompt": "Is 7 odd?", "chosen": "Yes.", "rejected": "No."}
ASK = {"prompt": "Is 7 odd?", "reference": "Yes."}
LONG = "so long " * 60
ROWS = {
    "text": [{"text": "Seven is odd."}],
    "turns": [TURN],
    "pairs": [PAIR],
    "asks": [ASK],
    "ties": [{"prompt": "a", "responses": ["b", "c"], "ranks": [1, 1]}] * 3,
    "same": [{"prompt": "a", "responses": ["b", "b"], "ranks": [1, 2]}] * 2,
    "long_asks": [{"prompt": LONG, "reference": "Yes."}] * 2,
    "long_turns": [{"prompt": "a", "response": LONG}] * 2,
    "long_pairs": [{**PAIR, "rejected": LONG}] * 2,
    "blank": [ASK, {"prompt": "Is 8 odd?"}],
    "some_long": [TURN, TURN, {"prompt": "a", "response": LONG}],
    "last_fits": [{"prompt": LONG, "reference": "Yes."}] * 903 + [ASK],
    "typo": [TURN, {"prompt": "a", "respons": "b"}],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a file for each of `ROWS`, and a workdir that has its tokenizer."""
    folder = tmp_path_factory.mktemp("inputs")
    train_bpe(["Is 7 odd? Yes. No. so long"], 280, folder / "run" / "tokenizer")
    for name, rows in ROWS.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def config_of(data):
    """A config of every stage that reads one good file each."""
    c = default_config()
    c.data_dir = str(data)
    c.max_prompt_length, c.max_response_length = 32, 16
    for stage, rows in (("pretrain", "text"), ("sft", "turns"), ("reward", "pairs")):
        c[stage].steps, c[stage].length = 1, 64
        c[stage].sources.a, c[stage].weights.a = f"jsonl:{rows}.jsonl", 1.0
    c.reward.heldout.a = "jsonl:pairs.jsonl"
    c.ppo.iterations, c.ppo.ptx.coef, c.ppo.ptx.length = 1, 1.0, 64
    c.ppo.sources.a, c.ppo.weights.a = "jsonl:asks.jsonl", 1.0
    c.ppo.ptx.sources.a, c.ppo.ptx.weights.a = "jsonl:turns.jsonl", 1.0
    c.evaluate.domain.a, c.evaluate.judge = "jsonl:asks.jsonl", "exact"
    c.evaluate.general.a, c.evaluate.general_judge = "jsonl:asks.jsonl", "overlap"
    return c


def checked(data, *stages, **keys):
    config = config_of(data)
    config.update_from_flattened_dict(keys)
    return inputs.check(read(config), data / "run", *(stages or STAGES))


@pytest.mark.parametrize("key", [
    "pretrain.sources.a", "sft.sources.a", "reward.sources.a", "reward.heldout.a", "ppo.sources.a", "ppo.ptx.sources.a",
    "evaluate.domain.a", "evaluate.general.a",
])  # fmt: skip
def test_a_missing_file_of_any_stage_is_said_at_once(data, key):
    with pytest.raises(UserError, match=r"none\.jsonl: no such file; check the source's path and data_dir"):
        checked(data, **{key: "jsonl:none.jsonl"})


@pytest.mark.parametrize("keys, problem", [
    ({"ppo.ptx.sources.a": "jsonl:typo.jsonl"}, "typo.jsonl, line 2: unknown field 'respons'"),
    ({"reward.heldout.a": "jsonl:ties.jsonl"},
     "reward.heldout.a='jsonl:ties.jsonl': nothing is left of its 3 records: 3 have only answers of one rank."),
    ({"reward.heldout.a": "jsonl:same.jsonl"},
     "reward.heldout.a='jsonl:same.jsonl': nothing is left of its 2 records: 2 have only answers that are the same"),
    ({"reward.sources.a": "jsonl:long_pairs.jsonl"},
     "reward.sources.a='jsonl:long_pairs.jsonl': nothing is left of its 2 records: 2 have fewer than two answers that "
     "fit reward.length=64 tokens."),
    ({"evaluate.domain.a": "jsonl:long_asks.jsonl"},
     "evaluate.domain.a='jsonl:long_asks.jsonl': nothing is left of its 2 records: 2 do not fit max_prompt_length=32"),
    ({"ppo.ptx.sources.a": "jsonl:long_turns.jsonl"},
     "ppo.ptx.sources.a='jsonl:long_turns.jsonl': nothing is left of its 2 records: 2 do not fit ppo.ptx.length=64"),
    ({"ppo.sources.a": "jsonl:long_asks.jsonl", "overlong_prompts": "cut"},
     "no prompt to normalise the scores on (reward.normalize_on): ppo.sources.a='jsonl:long_asks.jsonl': nothing"),
    ({"reward.normalize_on": 0}, "reward.normalize_on=0 with 1 ppo.sources: scores are normalised on"),
    ({"ppo.weights.a": 0.0}, "ppo.weights: all weights are 0 or there is no source"),
    ({"sft.weights.a": -1.0}, "sft.weights.a=-1.0; expected 0 or more."),
    ({"evaluate.domain.a": "jsonl:blank.jsonl"}, "blank.jsonl, line 2: field 'reference' is missing; the judge"),
    ({"evaluate.general.a": "jsonl:blank.jsonl"}, "blank.jsonl, line 2: field 'reference' is missing; the judge"),
    ({"ppo.judge": "choice"}, "asks.jsonl, line 1: field 'meta.answer' is missing; the judge 'choice' needs"),
    ({"evaluate.judge": "adreview"}, "asks.jsonl, line 1: field 'meta.ad' is missing; the judge 'adreview' needs"),
    ({"reward.init": "/no/such/folder", "value.init": "sft"}, "reward.init='/no/such/folder': no such folder"),
    ({"model.path": "/no/such/folder", "pretrain.steps": 0}, "model.path='/no/such/folder': /no/such/folder: no "),
])  # fmt: skip
def test_what_a_later_stage_cannot_use_is_said_at_once(data, keys, problem):
    with pytest.raises(UserError) as error:
        checked(data, **keys)
    assert problem in str(error.value)


OWN = """
from icegrt_jax.data.records import Prompt
from icegrt_jax.domains import Domain
from icegrt_jax.evaluation.judges import needs

def fails(record, answer):
    return record.meta["tone"]

@needs("meta.tone")
def declared(record, answer):
    return 1

class Plain(Domain):
    sets = {"prompts": Prompt}
    def records(self, name, size, seed):
        return [{"prompt": "Is 7 odd?"}] * size
"""


@pytest.mark.parametrize("keys, problem", [
    ({"evaluate.judge": "own.py:fails"}, "line 1: the judge '{own}:fails': {own}, line 7: KeyError: 'tone'"),
    ({"ppo.judge": "own.py:declared"}, "asks.jsonl, line 1: field 'meta.tone' is missing; the judge '{own}:declared'"),
    ({"evaluate.judge": "own.py:none"}, "evaluate.judge='{own}:none': {own} defines no none; it has "),
    ({"domain": "own.py:None_"}, "domain='{own}:None_': {own} defines no None_; "),
    ({"domain": "own.py:Plain", "domain_sizes.prompt": 3}, "domain_sizes.prompt: the domain '{own}:Plain' has no such"),
    ({"domain": "own.py:Plain", "reward.sources.a": "jsonl:{workdir}/data/own_rankings.jsonl"},
     "reward.sources.a='jsonl:{{workdir}}/data/own_rankings.jsonl': the domain '{own}:Plain' ranks no answers."),
    ({"domain": "own.py:Plain", "evaluate.judge": "domain"}, "the domain '{own}:Plain' has no grade(record, answer)"),
])  # fmt: skip
def test_the_users_own_code_is_tried_before_the_run(data, tmp_path, keys, problem):
    (tmp_path / "own.py").write_text(OWN)
    keys = {key: str(value).replace("own.py", str(tmp_path / "own.py")) for key, value in keys.items()}
    keys |= {key: int(value) for key, value in keys.items() if value.isdigit()}
    with pytest.raises(UserError) as error:
        checked(data, **keys)
    assert problem.format(own=tmp_path / "own.py") in str(error.value)


def test_good_inputs_pass_without_a_word_and_write_nothing(data):
    before = sorted(data.rglob("*"))
    assert checked(data) == []
    assert checked(data, **{"evaluate.domain.a": "jsonl:blank.jsonl", "evaluate.limit": 1}) == []
    assert sorted(data.rglob("*")) == before


def test_a_stage_that_has_finished_or_is_skipped_reads_nothing(data, tmp_path):
    shutil.copytree(data / "run", tmp_path / "run")
    (tmp_path / "run" / "ppo").mkdir()
    (tmp_path / "run" / "ppo" / "done.json").write_text("{}")
    config = config_of(data)
    config.ppo.ptx.sources.a = "jsonl:none.jsonl"
    assert inputs.check(read(config), tmp_path / "run", *STAGES) == []
    config.reward.heldout.a, config.reward.steps = "jsonl:none.jsonl", 0
    assert inputs.check(read(config), tmp_path / "run", *STAGES) == []


def test_without_a_data_folder_paths_begin_where_the_command_runs(data, tmp_path, monkeypatch):
    monkeypatch.delenv("ICEGRT_DATA", raising=False)
    monkeypatch.chdir(data)
    assert checked(data, data_dir="") == []
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}/.*: no such file; check the source's path and data_dir"):
        checked(data, data_dir="")


def test_few_records_are_tokenised_unless_none_of_them_fits(data, monkeypatch):
    seen = []
    fit = evaluate.fit_prompts
    monkeypatch.setattr(
        evaluate, "fit_prompts", lambda records, *args: seen.append(len(records)) or fit(records, *args)
    )
    checked(data, evaluate.STAGE, **{"evaluate.domain.a": "jsonl:last_fits.jsonl"})
    assert sum(seen) == 904 + 1, "one of 904 fits, the last to be looked at"
    seen.clear()
    assert (
        checked(data, evaluate.STAGE, **{"evaluate.domain.a": "jsonl:last_fits.jsonl", "max_prompt_length": 500}) == []
    )
    assert sum(seen) <= inputs.LOOKED_AT + 1


def test_a_loss_of_more_than_a_quarter_is_a_warning(data):
    keys = {"sft.sources.a": "jsonl:some_long.jsonl"}
    assert checked(data, **keys) == [
        "sft.sources.a: 1 of 3 records (33%) are left out: 1 do not fit sft.length=64 tokens or have nothing to learn "
        "within."
    ]
    assert checked(data, **keys | {"sft.overlong": "cut"}) == [
        "sft.sources.a: 1 of 3 records (33%) are cut to sft.length=64 tokens."
    ]
    assert checked(data, **{"reward.sources.a": "jsonl:long_pairs.jsonl", "reward.overlong": "cut"}) == [
        "reward.sources.a: 2 of 4 answers (50%) are cut to reward.length=64 tokens."
    ]


def test_lengths_beyond_what_the_model_was_made_for_are_a_warning(data, tmp_path):
    tokenizer = inputs.tokenizers.future_tokenizer(read(config_of(data)), data / "run")
    tiny_folder(tmp_path / "model", tokenizer, scalar_head=False)
    raw = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**raw, "max_position_embeddings": 60}))
    keys = {"model.path": str(tmp_path / "model"), "pretrain.steps": 0}
    assert checked(data, **keys) == [
        f"{key}=64 is beyond the 60 tokens (max_position_embeddings) that model.path='{tmp_path}/model' was made for."
        for key in ("sft.length", "ppo.ptx.length", "reward.length")
    ]
    (tmp_path / "model" / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read"):
        checked(data, **keys)


def test_the_embedded_domain_s_records_are_checked_before_they_are_written(tmp_path, capsys):
    assert call("run", tmp_path / "new", **{"max_prompt_length": 8, "ppo.num_minibatches": 1}) == 2
    error = capsys.readouterr().err
    assert "nothing is left of its" in error and "max_prompt_length=8 tokens" in error
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("stage, keys, problem", [
    ("run", {"evaluate.domain.ads": "jsonl:{workdir}/data/eval_promts.jsonl"}, "eval_promts.jsonl: no such file"),
    ("evaluate", {"evaluate.judge": "choice"}, "field 'meta.answer' is missing; the judge 'choice' needs"),
    ("ppo", {"ppo.judge": "choice"}, "field 'meta.answer' is missing; the judge 'choice' needs"),
])  # fmt: skip
def test_each_stage_checks_its_inputs_before_it_writes_anything(tmp_path, capsys, stage, keys, problem):
    assert call(stage, tmp_path / "new", **{"ppo.num_minibatches": 1, **keys}) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def check_data(data, *more, kind="instruction", rows="some_long"):
    return cli.main(["data", "check", f"--source=jsonl:{rows}.jsonl", f"--kind={kind}", f"--data_dir={data}", *more])


def test_data_check_shows_token_lengths_and_what_would_be_lost(data, capsys):
    tokenizer = f"--tokenizer={data / 'run' / 'tokenizer'}"
    assert check_data(data) == 0
    assert "give --config or --tokenizer" in capsys.readouterr().out
    assert check_data(data, tokenizer) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("some_long.jsonl, line 1: read as response: prompt, response")
    assert lines[1:3] == ["  user: Is 7 odd?", "  assistant: Yes."]
    assert lines[3].endswith("3 instruction records, all valid") and len(lines) == 5
    sizes = inputs.tokenizers.load_tokenizer(data / "run" / "tokenizer")
    shortest, _, longest = (len(sizes.encode_conversation(r.messages)[0]) for r in _loaded(data, "some_long"))
    assert lines[4] == f"tokens: median {shortest}, 90 % {longest}, 99 % {longest}, longest {longest}"
    assert check_data(data, tokenizer, "--length=64") == 0
    out = capsys.readouterr().out
    assert "at --length=64 tokens, longer ones dropped: kept 2, dropped 1, records 3" in out
    assert "warning: the source: 1 of 3 records (33%) are left out" in out
    assert check_data(data, "--length=64") == 2
    assert "give --tokenizer or --config as well" in capsys.readouterr().err


def test_data_check_reads_the_lengths_of_a_config(data, tmp_path, capsys):
    file = tmp_path / "config.py"
    file.write_text(
        "from icegrt_jax.config import default_config\n\n\ndef get_config(switch=''):\n    c = default_config()\n"
        "    c.domain, c.sft.length, c.sft.sources.a, c.sft.weights.a = 'adreview', 64, 'jsonl:a', 1.0\n"
        "    c.reward.length, c.max_prompt_length = 48, 40\n    return c\n"
    )
    assert check_data(data, f"--config={file}") == 0
    assert "at sft.length=64 tokens, longer ones dropped: kept 2, dropped 1" in capsys.readouterr().out
    assert check_data(data, f"--config={file}", "--config.sft.overlong=cut") == 0
    assert "at sft.length=64 tokens, longer ones cut: kept 2, cut 1, dropped 0" in capsys.readouterr().out
    assert check_data(data, f"--config={file}", kind="ranking", rows="long_pairs") == 0
    assert "at reward.length=48 tokens, longer ones dropped: kept 0, dropped 2" in capsys.readouterr().out
    assert check_data(data, f"--config={file}", kind="prompt", rows="long_asks") == 0
    assert "at max_prompt_length=40 tokens, longer ones dropped: kept 0, dropped 2" in capsys.readouterr().out
    assert check_data(data, f"--config={file}", kind="text", rows="text") == 0
    assert "at pretrain.length=256 tokens, longer ones split: kept 1" in capsys.readouterr().out


def _loaded(data, name):
    from icegrt_jax.commands.data import KINDS

    return load_source(f"jsonl:{name}.jsonl", kind=KINDS["instruction"], data_dir=str(data))
