"""Our model and the harness's own `hf` backend, asked the same of the same folder."""

import json
import re

import jax
import numpy as np
import pytest

pytest.importorskip("lm_eval", reason='needs lm-evaluation-harness: pip install "icegrt_jax[eval]"')
pytest.importorskip("torch", reason="the other side of the comparison is torch's")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from icegrt_jax import cli
from icegrt_jax.commands import lm_eval as command
from icegrt_jax.data.tokenizers import train_bpe
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import sandbox
from icegrt_jax.models.api import Model, save_model
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import init_params
from icegrt_jax.runs.harness import HarnessModel

TEXT = "The quick brown fox, a dog. Is it lazy? No: it jumps over the lazy dog.\n\nQuestion: why? It is quick.\n"
LENGTH = 48  # tokens that the model reads at most
# A family with a window of its own, so that what a token sees is checked as well.
SHAPE = {"d_model": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "d_ff": 48}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model whose logits are far apart, as Hugging Face has it."""
    path = tmp_path_factory.mktemp("harness")
    tokenizer = train_bpe([TEXT * 3], 320, path / "tokenizer")
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, max_length=LENGTH, family="mistral", layer_windows=(24, 24), **SHAPE
    )
    params = jax.tree.map(lambda x: x * 3, init_params(jax.random.key(1), config))
    save_model(Model(config, params, tokenizer), path / "model")
    return path / "model"


@pytest.fixture(scope="module")
def theirs(folder):
    return HFLM(str(folder), device="cpu", dtype="float32", batch_size=4)


@pytest.fixture(scope="module")
def ours(folder):
    return HarnessModel(folder, data=1, batch_tokens=256, batch_size=4)


def asked(kind, *arguments):
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


PIECES = TEXT.split(" ")
LONG = " ".join(PIECES * 5)
PAIRS = [
    # Choices that share a context, of one token and of several; the same one twice.
    *(("Question: why?", f" {choice}") for choice in ("No", "it is quick", "it is lazy", "dog", "it is quick")),
    # Contexts that begin alike; none; one that ends in white space.
    *((" ".join(PIECES[:n]), " " + " ".join(PIECES[n : n + 3])) for n in range(1, 12)),
    ("", "The quick"),
    ("The quick ", "brown fox"),
    # More than the model reads, with a short end and a long one.
    (LONG, " lazy"),
    (LONG[:300], LONG[300:390]),
]


def test_log_likelihoods_are_those_of_the_hf_backend(ours, theirs):
    requests = asked("loglikelihood", *PAIRS)
    got, expected = ours.loglikelihood(requests), theirs.loglikelihood(requests)
    np.testing.assert_allclose([x for x, _ in got], [x for x, _ in expected], atol=1e-4)
    assert [x for _, x in got] == [x for _, x in expected]
    assert np.ptp([x for x, _ in expected]) > 10, "a model that is sure of something"


def test_what_the_model_would_say_itself_is_greedy(ours, theirs):
    words = {theirs.tok_decode([i]) for i in range(40, 320)}
    pairs = [(context, word) for context in ("Question", "The quick brown", "Is it lazy? No") for word in sorted(words)]
    requests = asked("loglikelihood", *(pair for pair in pairs if pair[1].strip()))
    got, expected = ([x for _, x in model.loglikelihood(requests)] for model in (ours, theirs))
    assert got == expected and 0 < sum(expected) < 9


def test_rolling_windows_are_those_of_the_hf_backend(ours, theirs):
    texts = [(text,) for text in (TEXT, LONG, "The", LONG[:200])]
    requests = asked("loglikelihood_rolling", *texts)
    np.testing.assert_allclose(ours.loglikelihood_rolling(requests), theirs.loglikelihood_rolling(requests), atol=1e-3)


GREEDY = {"do_sample": False, "temperature": 0.0, "max_gen_toks": 12}


def test_texts_are_those_of_the_hf_backend_up_to_each_kind_of_stop(ours, theirs):
    contexts = ["Question: why?", "The quick brown", LONG, "No: it"]
    whole = theirs.generate_until(asked("generate_until", *((text, {**GREEDY, "until": []}) for text in contexts)))
    inside = [run for text in whole for run in re.findall("[ -~]{2}", text[1:])]  # strings that cut the answers
    requests = asked(
        "generate_until",
        *((text, {**GREEDY, "until": [*inside, "\n\n"]}) for text in contexts),
        *((text, {"until": ".", "max_new_tokens": 12}) for text in contexts),
    )
    got = ours.generate_until(requests)
    assert got == theirs.generate_until(requests) and inside and sum(map(str.__ne__, got[:4], whole)) > 1


def test_a_stop_string_ends_the_compiled_loop(ours, monkeypatch):
    lengths = []
    decode = ours.chat_tokenizer.decode
    monkeypatch.setattr(
        type(ours.chat_tokenizer), "decode", lambda self, ids: (lengths.append(len(ids)), decode(ids))[1]
    )
    context, whole = "The quick brown", ours.generate_until(asked("generate_until", ("The quick brown", GREEDY)))[0]
    stop = whole[1:4]
    assert ours.generate_until(asked("generate_until", (context, {**GREEDY, "until": [stop]})))[0] == whole[:1]
    assert lengths[1] < lengths[0]


def test_drawn_texts_depend_on_the_seed_alone(folder, ours):
    requests = asked("generate_until", *[("The quick", {"temperature": 1.0, "top_k": 20, "max_gen_toks": 8})] * 3)
    first = ours.generate_until(requests)
    assert ours.generate_until(requests) == first and len(set(first)) > 1
    with pytest.raises(UserError, match="num_beams is not known here"):
        ours.generate_until(asked("generate_until", ("The", {"num_beams": 4})))
    with pytest.raises(UserError, match="max_gen_toks=48 leaves no room"):
        ours.generate_until(asked("generate_until", ("The", {"max_gen_toks": LENGTH})))


CHAT = [{"role": "system", "content": "Be quick."}, {"role": "user", "content": "Why?"}]


def test_conversations_are_written_as_by_the_hf_backend(ours, theirs):
    begun = [*CHAT, {"role": "assistant", "content": "It is"}]
    for messages, generate in ((CHAT, True), (begun, False)):
        assert ours.apply_chat_template(messages, generate) == theirs.apply_chat_template(messages, generate)
    assert ours.chat_template(True) == theirs.chat_template(True)
    text = ours.apply_chat_template(CHAT)
    assert ours.tok_encode(text) == theirs.tok_encode(text)


@pytest.fixture(scope="module")
def with_bos(folder, tmp_path_factory):
    """The same model with a tokenizer that puts BOS in front and has no chat template."""
    path = tmp_path_factory.mktemp("bos")
    for file in folder.iterdir():
        if file.is_file() and file.name != "chat_template.jinja":
            (path / file.name).write_bytes(file.read_bytes())
    rules = json.loads((path / "tokenizer.json").read_text())
    bos = "<|user|>"
    number = next(token["id"] for token in rules["added_tokens"] if token["content"] == bos)
    sequence = lambda i: [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": i, "type_id": 0}}]
    rules["post_processor"] = {
        "type": "TemplateProcessing", "single": sequence("A"), "pair": sequence("A") + sequence("B")[1:],
        "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
    }  # fmt: skip
    (path / "tokenizer.json").write_text(json.dumps(rules))
    described = json.loads((path / "tokenizer_config.json").read_text())
    described.pop("chat_template", None)
    (path / "tokenizer_config.json").write_text(json.dumps({**described, "bos_token": bos}))
    return path


@pytest.mark.parametrize("options", [{}, {"add_bos_token": False}, {"prefix_token_id": 7}])
def test_bos_comes_first_where_the_hf_backend_puts_it(with_bos, options):
    ours = HarnessModel(with_bos, data=1, batch_tokens=256, **options)
    theirs = HFLM(str(with_bos), device="cpu", dtype="float32", batch_size=8, **options)
    for text in ("The quick", "<|user|>The quick", ""):
        assert ours.tok_encode(text) == theirs.tok_encode(text)
        assert ours.tok_encode(text, add_special_tokens=False) == theirs.tok_encode(text, add_special_tokens=False)
    assert ours.prefix_token_id == theirs.prefix_token_id
    requests = asked("loglikelihood", *PAIRS[:4], ("", "The quick"))
    got, expected = ours.loglikelihood(requests), theirs.loglikelihood(requests)
    np.testing.assert_allclose([x for x, _ in got], [x for x, _ in expected], atol=1e-4)
    with pytest.raises(UserError, match="no chat template"):
        ours.apply_chat_template(CHAT)


def test_over_several_devices_the_numbers_are_the_same(folder, ours):
    spread = HarnessModel(folder, data=2, fsdp=2, batch_tokens=512, batch_size=4)
    requests = asked("loglikelihood", *PAIRS)
    alone, together = ([x for x, _ in model.loglikelihood(requests)] for model in (ours, spread))
    np.testing.assert_allclose(together, alone, atol=1e-4)
    requests = asked("generate_until", *((text, {**GREEDY, "until": ["."]}) for text in ("Question:", "The quick")))
    assert spread.generate_until(requests) == ours.generate_until(requests)


ROWS = {
    "piqa/validation": [{"goal": f"Is {i} quick?", "sol1": "it is", "sol2": "No", "label": i % 2} for i in range(6)],
    "winogrande/validation": [
        {"sentence": "The fox saw the dog as _ was lazy.", "option1": "the fox", "option2": "the dog", "answer": "2"}
    ],
    "triviaqa/validation": [{"question": "Who is quick", "answer": {"aliases": ["fox", "the fox"]}}],
}
TASKS = ["icegrt_piqa", "icegrt_winogrande", "icegrt_triviaqa"]


@pytest.fixture
def sets(tmp_path, monkeypatch):
    for name, rows in ROWS.items():
        file = tmp_path / "data" / "bench" / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("ICEGRT_DATA", str(tmp_path / "data"))


@pytest.fixture
def asked_for(folder, compiled_once):
    """Gives the flags of the command for some tasks."""
    common = [f"--checkpoint={folder}", "--data=1", "--batch_tokens=256", "--batch_size=4", "--max_gen_toks=12"]
    return lambda *tasks: ["lm-eval", *common, f"--tasks={','.join(tasks)}"]


def test_the_command_gives_the_numbers_of_the_hf_backend(asked_for, theirs, sets, tmp_path, capsys):
    out = tmp_path / "out" / "results.json"
    assert cli.main([*asked_for(*TASKS), f"--out={out}"]) == 0
    assert "icegrt_piqa" in capsys.readouterr().out
    results = json.loads(out.read_text())["results"]
    manager = TaskManager(include_path=str(command.OURS), include_defaults=False)
    expected = lm_eval.simple_evaluate(theirs, tasks=TASKS, task_manager=manager, gen_kwargs={"max_gen_toks": 12})
    for task in TASKS:
        numbers = {k: v for k, v in expected["results"][task].items() if isinstance(v, float)}
        assert numbers and {k: results[task][k] for k in numbers} == pytest.approx(numbers, abs=1e-6)
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.icegrt_piqa.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and rows[0]["doc"]["goal"] == "Is 0 quick?"


def test_programs_that_the_model_writes_are_run_where_it_is_asked_for(asked_for, sets, tmp_path, capsys, monkeypatch):
    rows = [{"task_id": str(n), "prompt": "def add(a, b):\n", "entry_point": "add", "canonical_solution": "",
             "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n"} for n in range(2)]  # fmt: skip
    (tmp_path / "data" / "bench" / "humaneval").mkdir()
    file = tmp_path / "data" / "bench" / "humaneval" / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran, out, flags = [], tmp_path / "code.json", asked_for("icegrt_humaneval")
    monkeypatch.setattr(sandbox, "run", lambda program: ran.append(program) or sandbox.Ended("a + b" in program))
    answers = ["    return a + b\n", "    return 0\n"]  # more tokens than the tiny model has
    monkeypatch.setattr(HarnessModel, "generate_until", lambda self, requests, **_: answers[: len(requests)])
    assert cli.main(flags) == 2 and not ran
    assert "icegrt_humaneval runs programs that the model writes" in capsys.readouterr().err
    assert cli.main([*flags, "--run_code", f"--out={out}"]) == 0
    assert json.loads(out.read_text())["results"]["icegrt_humaneval"]["pass@1,none"] == 0.5
    assert [program.partition("def check")[0] for program in ran] == [f"def add(a, b):\n{a}\n" for a in answers]
    assert ran[0].endswith("check(add)\n")


def test_a_wrong_command_is_one_sentence(asked_for, sets, tmp_path, capsys, monkeypatch):
    def said(*flags):
        assert cli.main(list(flags)) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    assert "expected --checkpoint=PATH, or --workdir=DIR" in said("lm-eval")
    assert "no folder there" in said("lm-eval", f"--workdir={tmp_path}", "--stage=ppo")
    assert "expected a name ending in .json" in said(*asked_for("icegrt_piqa"), "--out=a.csv")
    assert "add --chat" in said(*asked_for("icegrt_piqa"), "--system=Be quick.")
    assert "arc_easy/validation.jsonl: not there" in said(*asked_for("icegrt_arc_easy"))
    monkeypatch.delenv("ICEGRT_DATA")
    assert "ICEGRT_DATA is not set; the tasks icegrt_* read the public sets" in said(*asked_for("icegrt_boolq"))
