"""Mistakes of a user, end to end: one sentence, exit code 2, nothing half-written."""

import json
import shutil

import pytest

from icegrt_jax import files, sums
from icegrt_jax.data.tokenizers import ChatTokenizer, load_tokenizer
from tests.commands.reward_folders import tiny_folder
from tests.commands.runs import call, copy_parts

GOOD = {"prompt": "What is 1 + 1?", "response": "2"}


def refused(capsys, stage, workdir, *more, **keys):
    """The error line of a command that must fail as a user's mistake does."""
    assert call(stage, workdir, *more, **keys) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error.removeprefix("error: ")


@pytest.fixture
def started(finished, tmp_path):
    """A workdir with its data and tokenizer, and pretraining done."""
    return copy_parts(finished, tmp_path / "run", "data", "tokenizer", "pretrain")


def write_rows(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def nothing_half_written(workdir, stage):
    """Neither a finished stage nor a checkpoint, metrics or a temporary file of one."""
    return not (workdir / stage).exists() or not any((workdir / stage).iterdir())


@pytest.mark.parametrize("stage, key", [("sft", "sft.sources.general"), ("sft", "sft.sources.domain")])
def test_a_missing_source_file_is_named(started, capsys, stage, key):
    error = refused(capsys, stage, started, **{key: "jsonl:/no/such/rows.jsonl"})
    assert error == "/no/such/rows.jsonl: no such file; check the source's path and data_dir."
    assert nothing_half_written(started, stage)


@pytest.mark.parametrize(
    "row, where",
    [
        ('{"prompt": "a", ', "line 3: not JSON (Expecting property name"),
        ({"prompt": "a", "response": ""}, "line 3: field 'response' is empty; write some text or remove the line."),
        ({"prompt": " ", "response": "b"}, "line 3: field 'prompt' is empty"),
        ({"prompt": "a", "respons": "b"}, "line 3: unknown field 'respons'; expected messages, prompt, response"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "line 3: field 'messages[0].role' is 'bot'; expected one of"),
    ],
    ids=["json", "response", "prompt", "field", "role"],
)
def test_a_malformed_line_is_named_with_its_file_line_and_field(started, tmp_path, capsys, row, where):
    path = write_rows(tmp_path / "rows.jsonl", GOOD, GOOD, row, GOOD)
    assert refused(capsys, "sft", started, **{"sft.sources.general": f"jsonl:{path}"}).startswith(f"{path}, {where}")
    assert nothing_half_written(started, "sft")


def test_ranks_that_do_not_match_the_responses_are_named(finished, tmp_path, capsys):
    workdir = copy_parts(finished, tmp_path / "run", "data", "tokenizer", "sft")
    path = write_rows(tmp_path / "rows.jsonl", {"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2, 3]})
    error = refused(capsys, "reward", workdir, **{"reward.sources.made": f"jsonl:{path}"})
    assert error == f"{path}, line 1: field 'ranks' has 3 entries for 2 responses; give one rank for each response."
    assert nothing_half_written(workdir, "reward")


def test_a_checkpoint_of_another_shape_is_refused_with_the_keys_that_differ(started, capsys):
    done = files.read_json(started / "pretrain" / "done.json")
    done["models"]["policy"]["d_ff"] = 96
    files.write_json_atomic(started / "pretrain" / "done.json", done)
    error = refused(capsys, "sft", started)
    assert "does not fit this configuration" in error
    assert "params/policy/layers/0/mlp/up/kernel is stored as float32[32, 64], wanted float32[32, 96]" in error
    assert nothing_half_written(started, "sft")


def test_resuming_with_another_shape_is_refused_with_the_keys_that_differ(started, finished, capsys):
    """The stage's own checkpoint, from a run whose config file was thrown away."""
    shutil.copytree(finished[0] / "sft" / "checkpoints", started / "sft" / "checkpoints")
    shutil.rmtree(started / "pretrain")
    before = sorted(started.rglob("*"))
    error = refused(capsys, "sft", started, **{"pretrain.steps": 0, "model.d_model": 48})
    assert "/policy/1/0/mu/embed/embedding is stored as float32[" in error and ", 48]" in error
    new = {path.relative_to(started).parts[0] for path in set(started.rglob("*")) - set(before)}
    assert new <= {"sft", "config.json", "checksums.json"} and not (started / "sft" / "done.json").exists()


def test_a_stage_whose_predecessor_has_not_finished_says_which(started, capsys):
    assert refused(capsys, "reward", started).endswith("the sft stage has not finished; run `icegrt sft` first.")
    assert nothing_half_written(started, "reward")


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"sft.batch_size": 12},
         "sft.batch_size=12 does not divide over 8 devices (mesh axes data x fsdp); use a multiple of 8."),
        ({"ppo.ptx.batch_size": 4, "ppo.ptx.coef": 0.5},
         "ppo.ptx.batch_size=4 does not divide over 8 devices (mesh axes data x fsdp); use a multiple of 8."),
        ({"ppo.num_minibatches": 2, "ppo.ptx.coef": 0.0},
         "ppo.batch_size * samples_per_prompt / num_minibatches=4 does not divide over 8 devices (mesh axes data x "
         "fsdp); use a multiple of 8."),
        ({"mesh.fsdp": 4, "mesh.rollout_tensor": 3},
         "mesh.rollout_tensor=3 with fsdp=4 and tensor=1; expected the tensor axis times a divisor of "
         "the fsdp axis, 1 or 2 or 4, or 0 to have it chosen."),
        ({"mesh.data": 3}, "mesh data=3, fsdp=1, tensor=1 is 3 devices, but there are 8; set one of the sizes to -1."),
        ({"ppo.lamb": 0.9}, "unknown key --config.ppo.lamb; did you mean --config.ppo.lam?"),
        ({"ppo.kl.kind": "k4"}, "ppo.kl.kind='k4'; expected one of 'k1', 'k2', 'k3', 'exact'."),
    ],
    ids=["batch", "replay", "minibatch", "rollout", "mesh", "key", "choice"],
)  # fmt: skip
def test_a_value_that_cannot_be_leaves_no_workdir_behind(tmp_path, capsys, keys, message):
    assert refused(capsys, "run", tmp_path / "new", **{"mesh.data": -1, "ppo.num_minibatches": 1, **keys}) == message
    assert not (tmp_path / "new").exists(), "it would be refused to the corrected command"


@pytest.mark.parametrize("overlong, expected", [
    ("drop", "kept: 1, over: 0, cut: 0, dropped: 1"),
    ("cut", "kept: 1, over: 0, cut: 1, dropped: 0"),
    ("keep", "kept: 2, over: 1, cut: 0, dropped: 0"),
])  # fmt: skip
def test_prompts_over_the_budget_are_dropped_cut_or_kept_and_counted(finished, tmp_path, capsys, overlong, expected):
    workdir = copy_parts(finished, tmp_path / "run", "data", "tokenizer", "sft", "reward")
    path = write_rows(tmp_path / "rows.jsonl", {"prompt": "short"}, {"prompt": "so long " * 100})
    keys = {"ppo.sources.ads": f"jsonl:{path}", "ppo.judge": "", "overlong_prompts": overlong, "ppo.iterations": 1}
    keys["ppo.num_minibatches"] = 1
    assert call("ppo", workdir, **keys) == 0
    assert f"ppo  data ads: records: 2, {expected}" in capsys.readouterr().out
    counts = files.read_json(workdir / "ppo" / "data.json")["ads"]
    assert counts["records"] == 2 == counts["kept"] + counts["cut"] + counts["dropped"]


@pytest.mark.parametrize("wrong, message", [
    (lambda ids, mask: (ids[:-1], mask[:-1]), "sft: what is marked ends with"),
    (lambda ids, mask: (ids, [False] * len(ids)),
     "sft.sources.decisions='jsonl:{workdir}/data/decisions.jsonl': nothing is left of its 100 records: 100 do not "
     "fit sft.length=128 tokens or have nothing to learn within."),
    (lambda ids, mask: (ids, mask[1:] + mask[:1]), "sft: what is marked ends with"),
], ids=["no EOS", "nothing to learn", "shifted"])  # fmt: skip
def test_a_pipeline_that_goes_wrong_is_stopped_before_training(started, capsys, monkeypatch, wrong, message):
    encode = ChatTokenizer.encode_examples
    monkeypatch.setattr(ChatTokenizer, "encode_examples", lambda *args: [wrong(*pair) for pair in encode(*args)])
    assert refused(capsys, "sft", started).startswith(message)
    assert nothing_half_written(started, "sft")


@pytest.mark.parametrize("stage", ["reward", "ppo"])
def test_a_double_bos_is_stopped_before_training(finished, tmp_path, capsys, stage):
    before = ("sft", "reward") if stage == "ppo" else ("sft",)
    workdir = copy_parts(finished, tmp_path / "run", "data", "tokenizer", *before)
    tokenizer = load_tokenizer(workdir / "tokenizer").tokenizer
    tokenizer.bos_token = "<|user|>"
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    tokenizer.save_pretrained(workdir / "tokenizer")
    sums.take(workdir / "tokenizer")
    error = refused(capsys, stage, workdir, **{"ppo.num_minibatches": 1})
    assert error.startswith(f"{stage}: double BOS: '<|user|>' stands twice in a row")
    assert nothing_half_written(workdir, stage)


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path, finished, capsys):
    folder = tmp_path / "model"
    tokenizer = load_tokenizer(finished[0] / "tokenizer").tokenizer
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    error = refused(capsys, "sft", tmp_path / "run", **{"model.path": str(folder), "pretrain.steps": 0})
    assert error == f"{folder}: no chat template; add chat_template.jinja, or chat_template to tokenizer_config.json."


def test_a_record_that_the_chat_template_refuses_is_named(started, tmp_path, capsys):
    tokenizer = load_tokenizer(started / "tokenizer").tokenizer
    tokenizer.chat_template += "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    tokenizer.save_pretrained(started / "tokenizer")
    sums.take(started / "tokenizer")
    system = {"prompt": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}], "response": "c"}
    path = write_rows(tmp_path / "rows.jsonl", GOOD, system)
    error = refused(capsys, "sft", started, **{"sft.sources.general": f"jsonl:{path}"})
    assert error.startswith(f"{path}, line 2: the chat template refuses a conversation of the roles system, user")
    assert "(no system role)" in error and nothing_half_written(started, "sft")


def test_a_model_of_another_shape_than_was_planned_is_refused(finished, tmp_path, capsys):
    for name, rows in (("model", 0), ("planned", 4096)):
        tiny_folder(tmp_path / name, load_tokenizer(finished[0] / "tokenizer"), scalar_head=False, rows=rows)
    keys = {"model.path": tmp_path / "model", "model.hf_config": tmp_path / "planned", "pretrain.steps": 0}
    error = refused(capsys, "sft", copy_parts(finished, tmp_path / "run", "data"), **keys)
    assert error.startswith(f"model.hf_config='{tmp_path}/planned' describes another model than model.path=")
    assert error.endswith("parameters); name its own config.json, or leave model.hf_config empty.")
    assert nothing_half_written(tmp_path / "run", "sft")
