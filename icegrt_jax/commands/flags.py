"""The flags of each command beside --config and --workdir. Imports no jax."""

import argparse
import math
import os
from typing import get_args

from icegrt_jax import commands
from icegrt_jax.config.choices import Quality
from icegrt_jax.config.options import JudgeModelOptions

KINDS = ("instruction", "ranking", "prompt", "text")


def at_least_0(text: str) -> float:
    """A number of 0 or more."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


at_least_0.__name__ = "number of 0 or more"  # as argparse's message says it


def count(text: str) -> int:
    """A whole number of 0 or more."""
    value = int(text)
    if value < 0:
        raise ValueError
    return value


count.__name__ = "whole number of 0 or more"


def positive(kind: type):
    """A parser of numbers above 0, named so that argparse's message says what was expected."""

    def parse(text: str):
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from", dest="source", default="", metavar="RUN:STAGE",
        help="begin a new workdir with another run's finished stages, up to this one; see docs/runs.md",
    )  # fmt: skip


def processes(parser: argparse.ArgumentParser) -> None:
    """Of a command that may run as several processes."""
    group = parser.add_argument_group("several hosts", "the same command on each; found by JAX on TPU pods, Slurm, ...")
    add = group.add_argument
    # Written with either dash: the flags of a launcher look like this, ours like that.
    add("--distributed", choices=("auto", "off"), default="auto", help="off: one process (default auto)")
    add("--coordinator", default="", metavar="HOST:PORT", help="of process 0, where nothing is found")
    add("--num-processes", "--num_processes", type=positive(int), metavar="N", help="how many processes there are")
    add("--process-id", "--process_id", type=count, metavar="I", help="which one this is, from 0")
    add("--host-timeout", "--host_timeout", type=positive(float), default=600.0, metavar="SECONDS",
        dest="timeout", help="how long one process waits for another (default 600)")  # fmt: skip


def sample(parser: argparse.ArgumentParser) -> None:
    """Of `icegrt sample`."""
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="STAGE", help="sft, ppo, ..., or the path of a model")
    add("--prompts", required=True, metavar="SPEC", help="where the prompts are, such as jsonl:prompts.jsonl")
    add("--out", required=True, metavar="FILE", help="the .jsonl file to write")
    add("--num_samples", type=positive(int), default=4, metavar="K",
        help="answers per prompt; 1: instruction records (default 4)")  # fmt: skip
    add("--temperature", type=at_least_0, default=1.0, help="of the sampler; 0 is greedy (default 1.0)")
    add("--max_new_tokens", type=positive(int), default=128, help="longest answer in tokens (default 128)")


def plan(parser: argparse.ArgumentParser) -> None:
    """Of `icegrt plan`."""
    codes = "Exit code 0: fits, or the memory is not known; 3: does not fit; 2: cannot be planned."
    parser.epilog = f"{parser.epilog}\n{codes}"
    add = parser.add_argument
    add("--topology", required=True, metavar="SLICE", help="v5e:1x1, v5e:2x4, v4:2x2x4, v5p:4x4x4, v6e:16x16, cpu:8")
    add("--slices", type=positive(int), default=1, metavar="N", help="of that shape (default 1)")
    add("--memory", type=positive(float), default=0.0, metavar="GIB", help="of a chip (default: what it has)")
    add("--answers", type=positive(int), default=4, metavar="K", help="of a ranked prompt (default 4)")
    add("--quick", action="store_true", help="do not search for the largest batches")
    add("--sweep", action="store_true", help="try meshes and rematerialisation, and print the best")
    add("--json", dest="as_json", action="store_true", help="for programs")
    add("--cache", default="~/.cache/icegrt_jax/plan", metavar="DIR", help="what has been compiled (%(default)s)")


def check_model(parser: argparse.ArgumentParser) -> None:
    """Of `icegrt check-model`."""
    parser.epilog = "Exit code 0: the same within the tolerance; 1: something differs; 2: it cannot be checked."
    add = parser.add_argument
    add("--hf", required=True, metavar="DIR", help="Hugging Face folder of a language model or a reward model")
    add("--reference", default="", metavar="DIR", help="folder that transformers loads (default: the same)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation (default float32)")
    add("--prompts", default="", metavar="FILE.jsonl", help="prompt records (default: six built in)")
    add("--new_tokens", type=positive(int), default=32, metavar="N", help="of the greedy answers (default 32)")
    add("--tolerance", type=positive(float), default=0.0, metavar="X",
        help="difference over the largest logit (default 1e-4, 3e-2 with bfloat16)")  # fmt: skip


def lm_eval(parser: argparse.ArgumentParser) -> None:
    """Of `icegrt lm-eval`."""
    parser.epilog = "The tasks icegrt_* read the folder that ICEGRT_DATA names; see docs/lm_eval.md."
    add = parser.add_argument
    add(
        "--checkpoint",
        default="",
        metavar="PATH",
        help="a Hugging Face folder, a .gguf file, a stage's folder, a run's",
    )
    add("--workdir", default="", metavar="DIR", help="of a run, in place of --checkpoint")
    add("--stage", default="", metavar="STAGE", help="of that run (default: the newest policy)")
    add(
        "--tasks", default="icegrt_twelve", metavar="A,B", help="names of tasks or groups, commas between (%(default)s)"
    )
    add("--include", default="", metavar="DIR", help="a folder with task files of your own")
    add("--limit", type=positive(int), metavar="N", help="rows of each task (default: all)")
    add("--fewshot", type=count, metavar="N", help="examples before a question (default: as the task says)")
    add("--chat", action="store_true", help="ask through the chat template, examples as turns")
    add("--system", default="", metavar="TEXT", help="a system message; with --chat")
    add("--run_code", action="store_true", help="run programs that the model writes, which icegrt_humaneval needs")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation (default float32)")
    add("--batch_size", type=positive(int), metavar="N", help="answers in flight (default: as suits the devices)")
    add("--max_gen_toks", type=positive(int), default=256, metavar="N",
        help="of an answer, where the task does not say (default 256)")  # fmt: skip
    add("--batch_tokens", type=positive(int), metavar="N", help="scored at a time (default: as suits the devices)")
    add("--data", type=int, default=-1, metavar="N", help="devices with different rows (default: what is left)")
    add("--fsdp", type=positive(int), default=1, metavar="N", help="that the weights are split over (default 1)")
    add("--tensor", type=positive(int), default=1, metavar="N", help="that heads and widths are split over (default 1)")
    add("--out", default="", metavar="FILE.json", help="where the results go, each row beside them as FILE.TASK.jsonl")
    add("--cache", default="~/.cache/icegrt_jax/lm_eval", metavar="DIR", help="what has been compiled (%(default)s)")


def evaluate_reward(parser: argparse.ArgumentParser) -> None:
    """Of `icegrt evaluate-reward`."""
    add = parser.add_argument
    add(
        "--reward", required=True, metavar="DIR", help="a run's folder, that of its reward stage, or a Hugging Face one"
    )
    add("--out", required=True, metavar="FILE.json", help="the file to write")
    add("--policy", default="", metavar="DIR", help="what it is to train, for their lineage (default: the run's own)")
    add("--source", action="append", default=[], metavar="SPEC",
        help="[NAME=]FORMAT:PATH of rankings; may be repeated (default: LLMBar and PandaLM of --data_dir)")  # fmt: skip
    data_dir(parser)
    add("--quality", choices=get_args(Quality), default="ranks",
        help="of an answer, for best-of-n: by its rank, or the score it came with (default ranks)")  # fmt: skip
    add(
        "--limit", type=positive(int), default=0, metavar="N", help="records of a source, drawn by a seed (default all)"
    )
    add("--length", type=positive(int), default=0, metavar="N",
        help="tokens of prompt and answer at most (default: what the model was made for, up to 4096)")  # fmt: skip
    add("--batch_size", type=positive(int), default=16, metavar="N", help="answers scored at a time (default 16)")


def judge(parser: argparse.ArgumentParser) -> None:
    """Of `icegrt judge`."""
    parser.epilog = "ANSWERS: what `icegrt sample` writes, or RUN:ROW[:sampled|greedy|best]; see docs/judging.md."
    add, default = parser.add_argument, JudgeModelOptions()
    add("--ours", required=True, metavar="ANSWERS", help="such as runs/quickstart:ICE-GRT")
    add("--theirs", required=True, metavar="ANSWERS", help="to the same prompts, such as runs/quickstart:ICE-Instruct")
    add("--model", required=True, metavar="NAME", help="of the endpoint; without --url the folder of a model")
    add("--url", default="", help="of an OpenAI-compatible endpoint, such as http://localhost:8000/v1")
    add("--key_env", default="", metavar="VARIABLE", help="environment variable that holds the endpoint's key")
    add("--criteria", action="store_true", help="grade every answer by the eight criteria as well")
    add("--limit", type=positive(int), default=0, metavar="N", help="prompts (default all that both have answered)")
    add("--unjudged", type=at_least_0, default=0.0, metavar="SHARE", help="pairs that may have no verdict (default 0)")
    add("--at_once", type=positive(int), default=default.at_once, metavar="N", help="requests (default %(default)s)")
    add("--timeout", type=positive(float), default=default.timeout, metavar="S", help="seconds (default %(default)s)")
    add("--retries", type=int, default=default.retries, metavar="N", help="after a fault (default %(default)s)")
    add("--max_tokens", type=positive(int), default=default.max_tokens, help="of a reply (default %(default)s)")
    add("--cache", default=default.cache, metavar="DIR", help="where replies are kept (default %(default)s)")
    add("--out", default="", metavar="FILE.json", help="where the numbers go, with every verdict")


def people(parser: argparse.ArgumentParser) -> None:
    """Of `icegrt people`, which has two commands."""
    does = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    write = does.add_parser("write", help="write the answers of several stages to the same prompts, blind and shuffled")
    read = does.add_parser("read", help="what the filled-in files say of each stage, and how far the raters agree")
    answers = "of a stage: a file of `icegrt sample`, or RUN:ROW[:sampled|greedy|best]; once for each stage"
    write.add_argument("--answers", action="append", required=True, metavar="ANSWERS", help=answers)
    write.add_argument("--out", required=True, metavar="FILE.csv", help="the file; the key is FILE.key.json beside it")
    write.add_argument("--limit", type=positive(int), default=0, metavar="N", help="prompts, drawn (default all)")
    write.add_argument("--samples", type=positive(int), default=1, metavar="K", help="answers to a prompt (default 1)")
    write.add_argument("--seed", type=int, default=0, help="of the order (default 0)")
    read.add_argument(
        "--rated", action="append", required=True, dest="filled", metavar="FILE.csv", help="of each rater"
    )
    read.add_argument("--key", required=True, metavar="FILE.key.json", help="that was written beside the empty file")
    read.add_argument("--out", default="", metavar="FILE.json", help="where the numbers go")


def data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data_dir",
        default=os.environ.get("ICEGRT_DATA", "."),
        metavar="DIR",
        help="where relative paths start (default: $ICEGRT_DATA, else here)",
    )


def status(parser: argparse.ArgumentParser) -> None:
    """Of `icegrt status`."""
    parser.add_argument("workdir", metavar="WORKDIR", nargs="?", default=argparse.SUPPRESS, help="the run's folder")
    parser.add_argument("--workdir", default="", metavar="DIR", help="the same, as every other command has it")
    parser.add_argument("--json", action="store_true", dest="as_json", help="for programs")


def report(parser: argparse.ArgumentParser) -> None:
    """Of `icegrt report`."""
    add = parser.add_argument
    add("--workdir", default="", metavar="DIR", help="the run; its page is DIR/report/index.html")
    add("--compare", nargs="+", default=[], metavar="DIR", help="several runs, laid over each other in one page")
    add("--out", default="", metavar="FILE.html", help="of --compare (default: report/compare.html in the first run)")
    add(
        "--config", default="", metavar="FILE[:SWITCH]", help="a config: keys of the run that differ from it are marked"
    )


def export(parser: argparse.ArgumentParser) -> None:
    """Of `icegrt export`."""
    add = parser.add_argument
    add("--stage", required=True, choices=[c.name for c in commands.leaving_models()], help="whose model: %(choices)s")
    add("--role", choices=("policy", "value", "reward"), help="which of its models (default: policy, else reward)")
    add("--member", type=positive(int), default=0, metavar="N", help="which of several reward models, from 1 on")
    add("--out", required=True, metavar="DIR", help="the folder to write")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of the tensors (%(default)s)")
    add("--use", choices=("last", "best"), help="which checkpoint (default: as the stage's config says)")
    add("--adapter", action="store_true", help="write the stage's LoRA adapter alone, in PEFT's format")
    add("--base", default="", metavar="NAME", help="with --adapter: folder or hub name where PEFT will find the base")


def data(parser: argparse.ArgumentParser) -> None:
    """Of `icegrt data`, which has three commands."""
    does = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    check = does.add_parser("check", help="read and validate every record, write nothing")
    left = does.add_parser("filter", help="write the records that are no near-duplicates and in no evaluation")
    build = does.add_parser("build", help="write the records as a TFDS dataset, or tokenised (ArrayRecord)")
    for command in (check, left, build):
        command.add_argument("--source", required=True, metavar="SPEC", help="FORMAT:PATH, such as jsonl:rows.jsonl")
        command.add_argument("--kind", required=True, choices=KINDS, help="what a record is: %(choices)s")
        data_dir(command)
    filters(left)
    measure = check.add_argument_group("token lengths", "shown with either")
    tokens = build.add_argument_group("tokenised", "with either, for data that do not fit into memory")
    for add in (measure.add_argument, tokens.add_argument):
        add("--config", default="", metavar="FILE[:SWITCH]", help="whose tokenizer and lengths they are read at")
        add("--tokenizer", default="", metavar="DIR", help="Hugging Face folder, in place of the config's")
    measure.add_argument(
        "--length", type=positive(int), default=0, metavar="N", help="tokens, in place of the config's lengths"
    )
    build.add_argument("--name", required=True, help="the dataset's name, read later as tfds:NAME@OUT")
    build.add_argument("--split", default="train", help="the dataset's split (default train)")
    build.add_argument("--out", required=True, metavar="DIR", help="folder of the dataset")


def filters(parser: argparse.ArgumentParser) -> None:
    """Of `icegrt data filter`, beside the source."""
    add = parser.add_argument
    add("--out", required=True, metavar="FILE.jsonl", help="the file of what is kept")
    add("--report", default="", metavar="FILE.jsonl", help="of what is not, and why (default: OUT.dropped.jsonl)")
    add("--near-duplicates", "--near_duplicates", type=similarity, default=0.0, metavar="X",
        help="leave out what is as similar to an earlier record; 0.8 is usual")  # fmt: skip
    add("--against", action="append", default=[], metavar="SPEC",
        help="[KIND=]FORMAT:PATH of an evaluation, of prompts by default; may be repeated")  # fmt: skip
    add("--ngram", type=positive(int), default=13, metavar="N",
        help="words in a row that a record may not share with it (default 13)")  # fmt: skip


def similarity(text: str) -> float:
    """A number above 0, 1 at most."""
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError
    return value


similarity.__name__ = "similarity above 0, 1 at most"  # as argparse's message says it
