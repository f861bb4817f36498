"""Records tokenised once and read from ArrayRecord: the same batches as from the lines they came from."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from icegrt_jax import cli
from icegrt_jax.data import token_build
from icegrt_jax.data.fingerprint import fingerprint
from icegrt_jax.data.host_share import Share
from icegrt_jax.data.pipeline import prompt_batches, ranking_batches, sft_batches
from icegrt_jax.data.records import KINDS, Instruction, Prompt, Ranking, Text, read_jsonl, user, write_jsonl
from icegrt_jax.data.sequences import Chained
from icegrt_jax.data.sources import load_source
from icegrt_jax.data.tokenizers import load_tokenizer, train_bpe
from icegrt_jax.errors import UserError
from tests.data.second_tokenizer import second_tokenizer
from tests.hosts.meetings import on_hosts

ROOT = pathlib.Path(__file__).parents[2]

WORDS = ["cat", "hat", "mat", "rat", "bat"]


def said(i, times):
    return " ".join([WORDS[i % 5]] * times)


def instruction(i):
    turns = (*user(f"say {i}"), {"role": "assistant", "content": said(i, 1 + i % 7)})
    return Instruction(turns * (1 + i % 2), {"number": i})


TIED = (1.0, 2.0, 2.0, 1.0)
RECORDS = {
    "instruction": [instruction(i) for i in range(40)],
    "text": [Text(said(i, 1 + 5 * (i % 9))) for i in range(30)],
    "prompt": [Prompt(user(f"say {said(i, 1 + i % 12)}"), f"{i}") for i in range(30)],
    "ranking": [  # ties among them
        Ranking(user(f"say {i}"), tuple(said(i + j, 1 + i % 9) for j in range(2 + i % 3)), TIED[: 2 + i % 3])
        for i in range(30)
    ],
}  # fmt: skip
BUILDERS = {
    "instruction": lambda sources, tokenizer, **k: sft_batches(sources, {"a": 1}, tokenizer, length=32, **k),
    "text": lambda sources, tokenizer, **k: sft_batches(sources, {"a": 1}, tokenizer, length=32, **k),
    "prompt": lambda sources, tokenizer, **k: prompt_batches(sources, {"a": 1}, tokenizer, max_prompt_length=20, **k),
    "ranking": lambda sources, tokenizer, **k: ranking_batches(sources, {"a": 1}, tokenizer, length=32, **k),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe(WORDS * 9, 280, folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """NAME.jsonl of each kind, and beside it NAME, built from it by the command."""
    folder = tmp_path_factory.mktemp("stored")
    tokenizer.save(folder / "tokenizer")
    for name, records in RECORDS.items():
        write_jsonl(folder / f"{name}.jsonl", records)
        command = f"data build --source=jsonl:{name}.jsonl --kind={name} --name={name} --split=all"
        flags = [f"--data_dir={folder}", f"--tokenizer={folder}/tokenizer", f"--out={folder}"]
        assert cli.main([*command.split(), *flags]) == 0
    return folder


def both(folder, name):
    """The same records in memory and on the disk."""
    return (
        load_source(f"{spec}", kind=KINDS[name], data_dir=str(folder))
        for spec in (f"jsonl:{name}.jsonl", f"tokens:{name}/all")
    )


def same(first, second):
    return first.keys() == second.keys() and all(
        np.array_equal(first[k], second[k]) and first[k].dtype == second[k].dtype for k in first
    )


@pytest.mark.parametrize("name", RECORDS)
def test_stored_records_are_those_of_the_lines(folder, name):
    lines, stored = both(folder, name)
    assert list(stored) == lines and [record.where for record in stored] == [record.where for record in lines]
    assert list(stored[3::7][1:]) == lines[3::7][1:] and stored[-1] == lines[-1]
    chained, whole = Chained([stored, lines[:2]]), [*lines, *lines[:2]]
    assert list(chained) == whole and chained[-3] == whole[-3]
    assert chained[len(lines) - 2 :] == whole[len(lines) - 2 :] and chained[5:1:-2] == whole[5:1:-2]
    with pytest.raises(IndexError):
        chained[-len(whole) - 1]


@pytest.mark.parametrize("overlong", ["drop", "cut"])
@pytest.mark.parametrize("name", RECORDS)
def test_batches_of_stored_records_are_those_of_the_lines_bit_for_bit(folder, tokenizer, name, overlong):
    lines, stored = both(folder, name)
    for more in ({}, {"packing": False}) if name in ("instruction", "text") else ({},):
        options = {"batch_size": 3, "seed": 7, "overlong": overlong, **more}
        expected = BUILDERS[name]({"a": lines}, tokenizer, **options)
        batches = BUILDERS[name]({"a": stored}, tokenizer, **options)
        assert batches.report == expected.report
        assert all(same(batches[step], expected[step]) for step in (0, 1, 5, 30))
    assert name == "text" or expected.report["a"]["cut" if overlong == "cut" and name != "ranking" else "kept"] > 0


@pytest.mark.parametrize("name", RECORDS)
def test_several_hosts_share_the_work_on_stored_records(folder, tokenizer, name, tmp_path):
    lines, stored = both(folder, name)
    build = lambda records, **k: BUILDERS[name]({"a": records}, tokenizer, batch_size=4, seed=1, **k)
    whole = build(lines)
    halves = [[0, 1], [2, 3]]
    parts = on_hosts(tmp_path, 2, lambda m: build(
        stored, share=Share(m.index, 2, lambda size: halves[m.index], m.exchange)
    ))  # fmt: skip
    for part, rows in zip(parts, halves):
        assert part.report == whole.report
        assert all(same(part[step], {k: v[rows] for k, v in whole[step].items()}) for step in (0, 9))


def test_nothing_is_tokenised_again(folder, tokenizer, monkeypatch):
    for name in RECORDS:
        _, stored = both(folder, name)
        with monkeypatch.context() as patch:
            for method in ("encode_examples", "encode_prompt", "encode_answer", "encode_text"):
                patch.setattr(type(tokenizer), method, None)
            assert BUILDERS[name]({"a": stored}, tokenizer, batch_size=2, seed=0)[0]


def test_another_tokenizer_is_refused_and_a_copy_of_the_same_is_not(folder, tokenizer, tmp_path):
    _, stored = both(folder, "instruction")
    tokenizer.save(tmp_path / "copy")
    assert load_tokenizer(tmp_path / "copy").fingerprint == tokenizer.fingerprint
    other = second_tokenizer(tmp_path / "other")
    with pytest.raises(UserError, match=r"instruction/all: tokenised with another tokenizer or chat template"):
        BUILDERS["instruction"]({"a": stored}, other, batch_size=2, seed=0)
    check = [f"--source=tokens:{folder}/instruction/all", "--kind=instruction", f"--tokenizer={tmp_path / 'other'}"]
    assert cli.main(["data", "check", *check]) == 2
    assert cli.main(["data", "check", *check[:2], f"--tokenizer={tmp_path / 'copy'}", "--length=32"]) == 0


def test_a_build_is_whole_or_not_there_and_bad_folders_are_one_sentence(folder, tokenizer, tmp_path):
    bad = [{"prompt": "a", "response": "b"}, {"prompt": "a", "response": ""}]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
    flags = ["--kind=instruction", f"--data_dir={tmp_path}", f"--tokenizer={folder}/tokenizer", f"--out={tmp_path}"]
    assert cli.main(["data", "build", "--source=jsonl:bad.jsonl", "--name=bad", *flags]) == 2
    assert not list((tmp_path / "bad").iterdir())
    with pytest.raises(UserError, match="is there already"):
        token_build.write(folder / "text" / "all", [Text("a")], Text, tokenizer)
    with pytest.raises(UserError, match="there are no records to write"):
        token_build.write(tmp_path / "none", [], Text, tokenizer)
    assert not (tmp_path / "none").exists()
    for spec, kind, problem in [
        (f"tokens:{folder}/text/all", Prompt, "holds text records, and prompt records are wanted"),
        (f"tokens:{folder}/text", Text, "no store.json here; expected a folder that `icegrt data build"),
        (f"tokens:{folder}/text/all?text=a", Text, "tokens has fields of its own"),
    ]:
        with pytest.raises(UserError, match=re.escape(problem)):
            load_source(spec, kind=kind)
    token_build.write(tmp_path / "cut", [Text("a"), Text("b")], Text, tokenizer)
    (tmp_path / "cut" / "part-00000.array_record").unlink()
    with pytest.raises(UserError, match="build the records again"):
        load_source(f"tokens:{tmp_path}/cut", kind=Text)


# Builds by the command line, each in a process that is killed while it writes its eighth record.
KILLED = """
import itertools, os, signal, sys, types
from icegrt_jax import cli
from icegrt_jax.data import tfds_builder, token_build

def counted(function, at):
    calls = itertools.count(1)

    def call(*args, **kwargs):
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return call

token_build.PART = 3  # files that are whole, and one that is not
token_build.to_bytes = counted(token_build.to_bytes, 8)
# Its own alone: records are turned into JSON where they are checked as well.
json = vars(tfds_builder.json)
tfds_builder.json = types.SimpleNamespace(**json | {"dumps": counted(json["dumps"], 8)})
for arguments in sys.argv[1].split("|"):
    child = os.fork()
    if not child:
        sys.exit(cli.main(arguments.split()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


def test_a_build_that_was_killed_is_never_read_and_the_next_one_clears_it_away(folder, tmp_path):
    flags = f"--kind=text --data_dir={folder} --out={tmp_path} --source=jsonl:text.jsonl"
    stored = f"data build {flags} --name=stored --split=all --tokenizer={folder}/tokenizer"
    plain = f"data build {flags} --name=plain"
    subprocess.run([sys.executable, "-c", KILLED, f"{stored}|{plain}"], cwd=ROOT, check=True)
    left = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("stored", "plain")]
    assert left[0] == [".all.tmp"] and len(left[1]) == 1 and "incomplete" in left[1][0]
    assert len(list((tmp_path / "stored" / ".all.tmp").glob("part-*"))) == 3
    for spec in (f"tokens:{tmp_path}/stored/all", f"tokens:{tmp_path}/stored/.all.tmp", f"tfds:plain@{tmp_path}#train"):
        with pytest.raises(UserError, match="icegrt data build"):
            load_source(spec, kind=Text)
    assert cli.main(stored.split()) == 0 and cli.main(plain.split()) == 0
    assert [path.name for path in (tmp_path / "stored").iterdir()] == ["all"]
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["1.0.0"]
    for spec in (f"tokens:{tmp_path}/stored/all", f"tfds:plain@{tmp_path}#train"):
        assert list(load_source(spec, kind=Text)) == RECORDS["text"]


def test_a_store_that_was_built_anew_of_other_records_is_another_one(folder, tokenizer, tmp_path):
    made = {}
    for name, records in (("one", RECORDS["text"]), ("same", RECORDS["text"]), ("other", RECORDS["text"][::-1])):
        token_build.write(tmp_path / name / "all", records, Text, tokenizer)
        made[name] = fingerprint(f"tokens:{name}/all", data_dir=str(tmp_path), cache=tmp_path / "cache.json")
    assert made["one"] == made["same"] != made["other"]


def test_records_of_several_files_come_back_in_order(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(token_build, "PART", 7)
    token_build.write(tmp_path / "a", RECORDS["text"], Text, tokenizer)
    assert len(list((tmp_path / "a").glob("*.array_record"))) == 5
    assert list(load_source(f"tokens:{tmp_path}/a", kind=Text)) == RECORDS["text"]


# Trains in a process of its own, at first on a small source, so that all is compiled and loaded, then on that again and
# on a large one; prints how many steps it made there, and by how many bytes it holds more than with the small one.
TRAINER = """
import re, sys, threading
import jax
from icegrt_jax.data.pipeline import sft_batches
from icegrt_jax.data.records import Text
from icegrt_jax.data.sources import load_source
from icegrt_jax.data.tokenizers import load_tokenizer
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.training.optimizers import OptimizerConfig
from icegrt_jax.training.state import create_state
from icegrt_jax.training.updates import sft_update
from tests.models.examples import make_params

tokenizer = load_tokenizer(sys.argv[1])
model = ModelConfig(vocab_size=tokenizer.vocab_size, d_model=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8,
                    d_ff=16, max_length=512)
optimizer = OptimizerConfig(lr=1e-3, total_steps=150)
state = create_state(jax.random.key(0), {"policy": make_params(model)}, {"policy": model}, {"policy": optimizer})
update = jax.jit(sft_update)

def train(state, spec):
    batches = sft_batches({"a": load_source(spec, kind=Text)}, {"a": 1}, tokenizer, batch_size=4, length=512, seed=0)
    steps = min(150, batches.report["a"]["rows"] // 4)
    for step in range(steps):
        state, metrics = update(state, batches[step])
        assert metrics["loss"] > 0  # waits: on a busy machine steps would pile up, each with its buffers
    return state, steps

# What no file backs: pages of libraries come and go with what else the machine does.
def memory():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

# In nine tenths of the moments: an update's own buffers come and go, and once in a while 16 MiB, whatever the data.
def held(state, spec):
    seen, ended = [memory()], threading.Event()
    def watch():
        while not ended.wait(0.002):
            seen.append(memory())
    watching = threading.Thread(target=watch)
    watching.start()
    state, steps = train(state, spec)
    ended.set()
    watching.join()
    return state, steps, sorted(seen)[9 * len(seen) // 10]

state, _ = train(state, sys.argv[2])
state, _, little = held(state, sys.argv[2])
state, steps, much = held(state, sys.argv[3])
print(steps, much - little)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory, tokenizer):
    """(folder, bytes of large.jsonl): texts of 20 KB."""
    folder = tmp_path_factory.mktemp("large")
    tokenizer.save(folder / "tokenizer")
    rng = np.random.default_rng(0)
    text = lambda: " ".join(WORDS[i] for i in rng.integers(0, 5, 5000))
    write_jsonl(folder / "small.jsonl", [Text(text()) for _ in range(20)])
    write_jsonl(folder / "large.jsonl", [Text(text()) for _ in range(600)])
    for name in ("small", "large"):
        token_build.write(folder / name, iter(read_jsonl(folder / f"{name}.jsonl", Text)), Text, tokenizer)
    return folder, (folder / "large.jsonl").stat().st_size


def growth(folder, *specs):
    """(steps made, bytes) of the trainer."""
    arguments = [sys.executable, "-c", TRAINER, str(folder / "tokenizer"), *specs]
    # One device: threads of eight would be most of what is measured.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["MALLOC_ARENA_MAX"] = "1"  # a second arena is 30 MB of heap, whatever the data
    process = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert process.returncode == 0, process.stderr
    return [int(number) for number in process.stdout.split()]


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="the system does not say what is held")
def test_a_data_set_three_times_larger_than_the_memory_it_may_take_trains(large):
    folder, size = large
    steps, stored = growth(folder, f"tokens:{folder}/small", f"tokens:{folder}/large")
    assert steps == 150 and stored < size / 3, f"{stored} bytes more for a data set of {size}"
    _, in_memory = growth(folder, f"jsonl:{folder}/small.jsonl", f"jsonl:{folder}/large.jsonl")
    print(f"data {size}, stored {stored}, in memory {in_memory} bytes")
    assert in_memory > size, "the measure would not have seen it"
