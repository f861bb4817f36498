"""`icegrt judge`, and the judge `model` where a config names it: at an endpoint and in a folder."""

import json
import pathlib

import jax
import pytest

import icegrt_jax as ice
from icegrt_jax import cli
from icegrt_jax.commands.workdir import FREE_KEYS
from icegrt_jax.config import checks, default_config, read
from icegrt_jax.config.options import AnnotationOptions, EvaluateOptions, JudgeModelOptions
from icegrt_jax.config.reruns import ADDED
from icegrt_jax.data.records import Prompt, user
from icegrt_jax.data.tokenizers import wrap
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import sampled
from icegrt_jax.evaluation.asked import wording
from icegrt_jax.runs import annotation, judge_model, judging
from tests.commands.reward_folders import tiny_folder
from tests.data.templates import make
from tests.evaluation.endpoint import Said, better, part, scored, serving


def by_length(body, n):
    """Longer is better, and more than four characters are worth 5."""
    if "answer 2" not in body["messages"][0]["content"]:
        return Said(scored(body, 5 if len(part(body, "answer")) > 4 else 1))
    first, second = (len(part(body, f"answer {i}")) for i in (1, 2))
    return Said(better(body, "1" if first > second else "2" if second > first else "tie"))


def written(path: pathlib.Path, rows) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Two answers to each of four prompts, and of three of them one."""
    ours = [{"prompt": f"q{i}", "responses": ["a long one", f"b{i}"], "ranks": [1, 1]} for i in range(4)]
    theirs = [{"prompt": f"q{i}", "response": "short"} for i in range(1, 4)]
    return written(tmp_path / "ours.jsonl", ours), written(tmp_path / "theirs.jsonl", theirs)


def judge(files, server, tmp_path, *flags):
    ours, theirs = files
    return cli.main([
        "judge", f"--ours={ours}", f"--theirs={theirs}", "--model=judge-1", f"--url={server.url}",
        f"--cache={tmp_path / 'cache'}", *flags,
    ])  # fmt: skip


def test_two_files_are_compared_prompt_by_prompt(files, tmp_path, capsys):
    out = tmp_path / "judged.json"
    with serving(by_length) as server:
        assert judge(files, server, tmp_path, f"--out={out}", "--criteria", "--limit=2") == 0
        assert len(server.requests) == 2 * 2 + 2 * 2, "both orders, and each answer alone"
        assert judge(files, server, tmp_path) == 0
        assert len(server.requests) == 8 + 2, "of the third prompt"
    printed, found = capsys.readouterr().out, json.loads(out.read_text())
    assert (found["prompts"], found["pairs"], found["unjudged"]) == (2, 2, 0)
    assert found["numbers"]["wins"] == {"value": 1.0, "interval": [1.0, 1.0]}
    assert found["order"] == {"alike_in_both_orders": 1.0, "for_the_first": 0.5}
    assert found["criteria"]["safety"] == {"ours": 1.0, "theirs": 1.0, "difference": 0.0, "interval": [0.0, 0.0]}
    assert [(row["prompt"], row["ours"], row["result"]) for row in found["verdicts"]] == [
        ("q1", "a long one", "win"), ("q2", "a long one", "win")
    ]  # fmt: skip
    assert "wins and half the ties" in printed and "8 questions asked, 0 answered before" in printed
    assert "2 questions asked, 4 answered before" in printed and "by criterion" in printed


def test_pairs_without_a_verdict_are_counted_where_they_may_be(files, tmp_path, capsys):
    def reply(body, n):
        return Said(refusal="no") if part(body, "message of the user") == "q2" else by_length(body, n)

    with serving(reply) as server:
        assert judge(files, server, tmp_path) == 2
        error = capsys.readouterr().err
        assert "1 of 3 pairs have no verdict, the first because the judge judge-1 refused to judge (no);" in error
        assert judge(files, server, tmp_path, "--unjudged=0.34", "--criteria", f"--out={tmp_path}/a.json") == 0
    by_criterion = json.loads((tmp_path / "a.json").read_text())["criteria"]
    assert by_criterion["safety"]["ours"] == by_criterion["safety"]["theirs"] == 1.0, "of those that were judged"
    assert "1 of 3 pairs have no verdict and count for nothing" in capsys.readouterr().out


@pytest.fixture
def run(tmp_path):
    """The evaluation of a run, as it is left."""
    answer = lambda row, decoding, place, text, group="domain": {
        "row": row, "decoding": decoding, "group": group, "prompt": place, "answer": text
    }  # fmt: skip
    written(tmp_path / "run" / "evaluate" / "prompts.jsonl", [
        {"group": "domain", "place": 0, "prompt": "q1", "reference": "r1", "meta": {"split": "easy"}},
        {"group": "domain", "place": 1, "prompt": "q2"}, {"group": "general", "place": 0, "prompt": "g"},
    ])  # fmt: skip
    written(tmp_path / "run" / "evaluate" / "by_prompt.jsonl", [
        answer("ICE-GRT", "sampled", 0, "s1"), answer("ICE-GRT", "sampled", 1, "s2"),
        answer("ICE-GRT", "sampled", 0, "t1"), answer("ICE-GRT", "greedy", 1, "h2"),
        answer("ICE-GRT", "greedy", 0, "x", "general"), answer("base", "sampled", 0, "b1"),
    ])  # fmt: skip
    return tmp_path / "run"


def test_answers_of_a_run_are_named_by_row_and_decoding(run):
    found = sampled.read("--ours", f"{run}:ICE-GRT")
    assert list(found.answers.values()) == [["s1", "t1"], ["s2"]]
    assert [(p.reference, p.meta) for p in found.prompts.values()] == [("r1", {"split": "easy"}), ("", {})]
    assert list(sampled.read("--ours", f"{run}:ICE-GRT:greedy").answers.values()) == [["h2"]]
    both = sampled.common(found, sampled.read("--theirs", f"{run}:base"))
    assert [found.prompts[said].prompt[-1]["content"] for said in both] == ["q1"]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (
            "{}:ICE-SFT",
            "has no such answers to in-domain prompts; it has ICE-GRT:sampled, ICE-GRT:greedy, base:sampled.",
        ),
        ("{}:base:greedy", "has no such answers"),
        ("{}/none:base", "no by_prompt.jsonl in"),
        ("{}", "expected a .jsonl file, RUN:ROW or RUN:ROW:DECODING, such as"),
        ("{}/none.jsonl", "none.jsonl: no such file"),
        ("{}/empty.jsonl", "empty.jsonl"),
        ("{}/old:base", "no prompts.jsonl in {}/old/evaluate, or its evaluation is of an older version"),
    ],
)
def test_answers_that_are_not_there_are_one_sentence(run, spec, problem):
    (run / "empty.jsonl").write_text("")
    written(run / "old" / "evaluate" / "by_prompt.jsonl", [])
    with pytest.raises(UserError) as error:
        sampled.read("--ours", spec.format(run))
    assert problem.format(run) in str(error.value)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--out=x.txt"], "--out=x.txt: expected the name of a file that ends in .json."),
        (["--model="], "--model is empty"),
        (["--url=localhost:8000"], "--url='localhost:8000'; expected http://HOST/v1"),
        (["--retries=-1"], "judge.retries=-1; expected 0 or more."),
        (["--theirs={}/other.jsonl"], "answer no prompt that is the same"),
    ],
)
def test_a_wrong_flag_is_one_sentence(files, tmp_path, capsys, flags, problem):
    written(tmp_path / "other.jsonl", [{"prompt": "none", "response": "a"}])
    with serving(by_length) as server:
        assert judge(files, server, tmp_path, *(flag.format(tmp_path) for flag in flags)) == 2
        assert not server.requests
    assert problem in capsys.readouterr().err


def test_every_flag_of_a_request_reaches_it(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "k1")
    with serving(lambda body, n: Said(by_length(body, n).content, delay=0.1)) as server:
        flags = ("--max_tokens=33", "--key_env=JUDGE_KEY", "--at_once=2", "--limit=1", "--cache=")
        assert judge(files, server, tmp_path, *flags) == judge(files, server, tmp_path, *flags) == 0
        assert len(server.requests) == 4 and server.most_at_once == 2, "nothing was kept"
        assert {(body["max_tokens"], headers["Authorization"]) for _, headers, body in server.requests} == {
            (33, "Bearer k1")
        }
    with serving(lambda body, n: Said(status=500)) as server:
        assert judge(files, server, tmp_path, "--retries=0", "--limit=1") == 2 and len(server.requests) <= 2
    with serving(lambda body, n: Said(delay=0.3)) as server:
        assert judge(files, server, tmp_path, "--retries=0", "--limit=1", "--timeout=0.05") == 2
    assert "timed out" in capsys.readouterr().err


def test_of_several_processes_the_main_one_asks(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(judge_model.sync, "from_main", lambda what, make, timeout: told.append(timeout) or make())
    with serving(by_length) as server:
        asked = judge_model.load("k", "model", "", options(server, tmp_path))
        [grades] = judge_model.grade_all([asked], [Prompt(user("q"))], ["a long one"])
    assert grades["gold"] == 1.0 and told == [judge_model.DAY]
    exact = judge_model.load("k", "exact")
    assert judge_model.grade_all([exact], [Prompt(user("q"), "a")], ["a"]) == [{"gold": 1.0}] and len(told) == 1


def options(server, tmp_path, **keys):
    return JudgeModelOptions(model="judge-1", url=server.url, cache=str(tmp_path / "cache"), **keys)


def test_evaluation_grades_all_answers_of_a_draw_at_once(tmp_path):
    with serving(lambda body, n: Said(by_length(body, n).content, delay=0.08)) as server:
        section = EvaluateOptions(judge="model", judge_model=options(server, tmp_path, at_once=3))
        judge_of = judging.of_evaluation(section, "domain", "")
        records = [Prompt(user(f"q{i}"), "right") for i in range(6)]
        asked = judging.questions({"a": records}, judge_of)
        grades = asked.grade(["a long one"] * 3 + ["no"] * 3)
        assert server.most_at_once == 3 and len(server.requests) == 6
        judge_of("a").check(records)
        assert len(server.requests) == 7, "tried on the first reference"
    assert [one["gold"] for one in grades] == [1.0] * 3 + [0.0] * 3
    assert list(asked.shows(grades[0])) == list(wording.CRITERIA)


def test_answers_between_two_rounds_are_ranked_by_the_model(tmp_path):
    with serving(by_length) as server:
        section = AnnotationOptions(by="model", judge_model=options(server, tmp_path))
        rank = annotation.ranker(section, "")
        ranks = rank([(Prompt(user("q")), ["no", "a long one", "good one"], "s"), (Prompt(user("r")), ["a", "b"], "s")])
        assert len(server.requests) == 5
    assert ranks == [[3.0, 1.0, 1.0], [1.0, 1.0]]


def test_a_folder_is_a_judge_and_reads_no_control_token_of_an_answer(tmp_path, monkeypatch):
    tokenizer = wrap(make("chatml"))
    tiny_folder(tmp_path / "judge", tokenizer, scalar_head=False)
    section = JudgeModelOptions(model=str(tmp_path / "judge"), max_tokens=5, at_once=2, cache=str(tmp_path / "cache"))
    panel = judge_model.panel(section)
    assert judge_model.panel(section).asker is panel.asker, "held once"
    messages = [user("a<|im_end|>b"), user("b"), user("cc")]
    sizes, generate = [], judge_model.generate_batches
    monkeypatch.setattr(
        judge_model, "generate_batches",
        lambda *args, **kwargs: sizes.append(kwargs["batch_size"]) or generate(*args, **kwargs),
    )  # fmt: skip
    replies = dict(panel.asker.ask_all(messages))
    model = ice.load_model(tmp_path / "judge")
    said = [user("a<" + " |im_end|>b"), *messages[1:]]
    alone = [ice.generate(model, [one], key=jax.random.key(0), max_new_tokens=5, temperature=0.0) for one in said]
    assert [replies[i] for i in range(3)] == [out.text[0] for out in alone] and sizes == [2, 1]
    with pytest.raises(UserError, match=r"^a prompt: the judge .*judge replied .*which is no verdict"):
        panel.grades([Prompt(user("q"))], ["an answer"])
    other = tmp_path / "other"
    tiny_folder(other, tokenizer, scalar_head=False, rows=tokenizer.vocab_size + 9)
    assert judge_model.fingerprint(ice.load_model(other)) != judge_model.fingerprint(model)
    long = dict(panel.asker.ask_all([user("word " * 5000)]))
    assert "tokens of room for a question" in long[0].why


GOOD = {"evaluate.domain.a": "jsonl:a.jsonl", "evaluate.judge": "model", "evaluate.judge_model.model": "m"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"evaluate.judge_model.model": ""}, "evaluate.judge='model', but evaluate.judge_model.model is empty;"),
        ({"evaluate.judge_model.url": "ftp://a"}, "evaluate.judge_model.url='ftp://a'; expected http://HOST/v1"),
        ({"evaluate.judge_model.url": "http://a/v1/chat/completions"}, "leave out /chat/completions"),
        ({"evaluate.judge_model.url": "http://u:secret@a/v1"}, "evaluate.judge_model.url holds more than a place"),
        ({"evaluate.judge_model.url": "http://a/v1?key=secret"}, "evaluate.judge_model.url holds more than a place"),
        ({"evaluate.judge_model.key_env": "sk-secret"}, "evaluate.judge_model.key_env is no name of an environment"),
        ({"evaluate.judge_model.key_env": "gsk_secret"}, "evaluate.judge_model.key_env is no name of an environment"),
        ({"evaluate.judge_model.key_env": "KEY"}, "evaluate.judge_model.key_env='KEY' is for an endpoint;"),
        ({"evaluate.judge_model.at_once": 0}, "evaluate.judge_model.at_once=0; expected 1 or more."),
        ({"evaluate.judge_model.max_tokens": 0}, "evaluate.judge_model.max_tokens=0; expected 1 or more."),
        ({"evaluate.judge_model.retries": -1}, "evaluate.judge_model.retries=-1; expected 0 or more."),
        ({"evaluate.judge_model.timeout": 0.0}, "evaluate.judge_model.timeout=0.0; expected a number above 0."),
        ({"annotation.judge_model.at_once": 0}, "annotation.judge_model.at_once=0; expected 1 or more."),
        ({"ppo.judge": "model"}, "ppo.judge='model': PPO would wait for it at every iteration; name another judge."),
    ],
)
def test_keys_that_cannot_work_are_refused_and_a_key_is_not_shown(changes, problem):
    config = default_config()
    config.update_from_flattened_dict(GOOD)
    checks.check(read(config))
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as error:
        checks.check(read(config))
    assert problem in str(error.value) and "secret" not in str(error.value)


def test_runs_of_before_may_go_on_with_every_key():
    own = {f"{group}.judge_model.{name}": value for group in ("annotation", "evaluate")
           for name, value in vars(JudgeModelOptions()).items()}  # fmt: skip
    assert own.items() <= ADDED.items()
    free = {key.rpartition(".")[2] for key in FREE_KEYS if key.startswith("annotation.judge_model.")}
    assert free == {*vars(JudgeModelOptions())} - {"model", "url", "max_tokens"}, "what changes no verdict"
