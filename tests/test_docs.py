"""What README.md and docs/ say exists: files, functions, commands, config keys, facts of the embedded domain."""

import ast
import doctest
import functools
import json
import pathlib
import re
import shlex
import sys
import types

import pytest

import icegrt_jax as ice
from icegrt_jax import cli, commands
from icegrt_jax.config import default_config
from icegrt_jax.config.file import flatten, load_config
from icegrt_jax.data import sources
from icegrt_jax.data.records import Instruction, Prompt, Ranking, Text
from icegrt_jax.domains.adreview import annotators, build, demonstrations, general, judge, rules, splits
from icegrt_jax.hosts import entry, launch

ROOT = pathlib.Path(__file__).parent.parent
DOCS = (
    "index", "first_expert", "coming_from", "faq", "api", "design", "training", "models", "sharding", "plans", "hosts",
    "numerics", "config", "data", "adreview", "alarms", "report", "evaluation", "judging", "lm_eval", "extending",
    "python", "rank", "recipes", "reliability", "reward_models", "runs", "tpu",
)  # fmt: skip
PAGES = ("README.md", *(f"docs/{name}.md" for name in DOCS))
# A module, with a name defined in it or a config's switch; or a place in one of our folders. Other paths are a run's.
MODULE = re.compile(r"[\w/]+\.py(:\w+)?")
PLACE = re.compile(r"(icegrt_jax|configs|experiments|notebooks|docs|tests)/[\w./]*")


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.DOTALL | re.MULTILINE)


def code_spans(page):
    """What stands in single backticks, outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text(page), flags=re.DOTALL | re.MULTILINE))


def find(path):
    """The file or folder as named from the root or from the package; None where there is none."""
    return next((p for base in ("", "icegrt_jax") if (p := ROOT / base / path).exists()), None)


@functools.cache
def names_in(path):
    """Functions, classes and constants defined at the top of a module, and the switches of a config."""
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    constants = {t.id: node.value for node in nodes if isinstance(node, ast.Assign) for t in node.targets
                 if isinstance(t, ast.Name)}  # fmt: skip
    return {*defined, *constants, *(ast.literal_eval(constants["SWITCHES"]) if "SWITCHES" in constants else ())}


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_function_named_exists(page):
    named = [span for span in code_spans(page) if MODULE.fullmatch(span) or PLACE.fullmatch(span)]
    links = re.findall(r"\]\(([\w/]+\.md)\)", text(page))
    assert [link for link in links if not ((ROOT / page).parent / link).is_file()] == []
    missing = []
    for span in named:
        path, _, name = span.partition(":")
        found = find(path)
        if found is None or (name and name not in names_in(found)):
            missing.append(span)
    assert named and missing == []


def test_the_map_is_one_screenful_of_pages_and_names_them_all():
    lines = text("docs/design.md").splitlines()
    assert len(lines) <= 150
    titles = {re.sub(r"[^a-z ]", "", line[3:].lower()).replace(" ", "-") for line in lines if line.startswith("## ")}
    assert set(re.findall(r"\]\(#([a-z-]+)\)", text("docs/design.md"))) == titles, "the contents list"
    linked = set(re.findall(r"\]\((\w+)\.md\)", text("docs/design.md")))
    assert linked | {"design"} == {path.stem for path in (ROOT / "docs").glob("*.md")} == set(DOCS)


def test_every_quantity_has_its_function_and_test():
    rows = [re.split(r" ?\| ?", line)[1:-1] for line in text("docs/numerics.md").splitlines() if line.startswith("| ")]
    quantities = [row for row in rows if re.search(r"\.py(:\w+)?`", "".join(row))]
    assert len(quantities) > 60
    assert [row[0] for row in quantities if not re.search(r"`tests/[\w/]+\.py`", row[-1])] == []
    assert [row[0] for row in quantities if not re.search(r"\.py:\w+`", row[-2])] == []


def test_every_function_of_rl_is_in_numerics():
    assert [name for name in ice.rl.__all__ if not re.search(rf"\b{name}\b", text("docs/numerics.md"))] == []


@pytest.mark.parametrize("page", PAGES)
def test_python_snippets_compile_and_examples_give_what_they_say(page):
    for number, snippet in enumerate(blocks(page, "python")):
        if ">>>" in snippet:
            parsed = doctest.DocTestParser().get_doctest(snippet, {}, f"{page}[{number}]", page, 0)
            assert doctest.DocTestRunner().run(parsed).failed == 0
        else:
            compile(snippet, page, "exec")


def test_the_public_names_of_the_readme_exist():
    used = re.findall(r"\bice\.(\w+)", "".join(blocks("README.md", "python")))
    assert used and set(used) <= set(ice.__all__)
    named = re.search(r"`ice.training` the update\nsteps: (.*?),\s+each", text("README.md"), re.DOTALL)[1]
    assert {name.strip(" `\n") for name in named.split(",")} <= set(ice.training.__all__)


def keys_of(config, prefix=""):
    """Every key and every group of keys, dotted."""
    for key in config:
        yield prefix + key
        if hasattr(config[key], "keys"):
            yield from keys_of(config[key], f"{prefix}{key}.")


@pytest.mark.parametrize("page", PAGES)
def test_every_config_key_named_exists(page):
    known = set(keys_of(default_config()))
    groups = "|".join(key for key in known if "." not in key)
    dotted = [span.partition("=")[0] for span in code_spans(page)]
    dotted = [span for span in dotted if re.fullmatch(rf"({groups})(\.[a-z_0-9]+)+", span)]
    assert [span for span in dotted if span not in known] == []


def test_the_factors_of_the_paper_are_keys():
    table = text("README.md").partition("## The factors of the paper")[2].partition("\n## ")[0]
    keys = re.findall(r"`([a-z]+(?:\.[a-z_]+)+)`", table)
    assert len(keys) > 25 and set(keys) <= set(keys_of(default_config()))


@pytest.fixture
def stand_ins(monkeypatch):
    """The stages that were called; each is replaced by one that does nothing."""
    calls = []
    for name in commands.TABLE:
        stage = types.SimpleNamespace(main=lambda *args, called=name, **flags: calls.append(called))
        monkeypatch.setitem(sys.modules, f"icegrt_jax.commands.{name.replace('-', '_')}", stage)
    # Commands for several hosts have their flags checked, and then run alone.
    monkeypatch.setattr(entry, "run", lambda *args: launch.alone(args[-1]))
    monkeypatch.chdir(ROOT)
    return calls


def icegrt(command, tmp_path):
    """The exit code of one `icegrt` command line, its workdir put under `tmp_path`."""
    arguments = [
        f"--workdir={tmp_path / 'run'}" if argument.startswith("--workdir=") else argument
        for argument in shlex.split(command, comments=True)[1:]
    ]
    return cli.main(arguments)


COMMANDS = [
    (page, line)
    for page in PAGES
    for line in (*"".join(blocks(page, "bash")).splitlines(), *code_spans(page))
    if line.startswith("icegrt ") and "=" in line and "FILE" not in line
]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_command_is_accepted(page, command, stand_ins, tmp_path, capsys):
    assert icegrt(command, tmp_path) == 0, capsys.readouterr().err
    assert stand_ins == [command.split()[1]]


def test_bad_input_is_answered_as_the_readme_says(stand_ins, tmp_path, capsys):
    (console,) = blocks("README.md", "console")
    pairs = re.findall(r"^\$ (icegrt .*)\n(error: .*)$", console, re.MULTILINE)
    assert len(pairs) == 3
    for command, answer in pairs:
        assert icegrt(command, tmp_path) == 2
        assert capsys.readouterr().err.strip() == answer


@pytest.mark.parametrize("page", PAGES)
def test_every_stage_and_make_target_named_exists(page):
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = [*code_spans(page), *"".join(blocks(page, "bash")).splitlines()]
    assert {m[1] for line in code if (m := re.match(r"make ([a-z][\w-]*)", line))} <= targets
    assert {m[1] for line in code if (m := re.match(r"icegrt ([a-z][\w-]*)", line))} <= set(commands.TABLE)


def test_the_readme_names_every_stage_and_nothing_of_this_machine():
    assert [stage for stage in commands.TABLE if not re.search(rf"`{stage}`|icegrt {stage}", text("README.md"))] == []
    for page in PAGES:
        assert not re.search(r"\.\./shared|/work/|/tmp/|/home/", text(page))


def test_every_source_format_is_documented():
    kinds = {"instruction": Instruction, "ranking": Ranking, "prompt": Prompt, "text": Text}
    for formats, wanted in re.findall(r"^\| (`\w+:.*?) \| .* \| ([a-z, ]+) \|$", text("docs/data.md"), re.MULTILINE):
        for name in re.findall(r"`(\w+):", formats):
            given = sources.CONVERTERS.get(name, dict.fromkeys(kinds.values()))
            listed = set(kinds) if wanted == "all" else set(wanted.split(", "))
            assert listed == {kind for kind, record in kinds.items() if record in given}, name
    documented = set(re.findall(r"`([a-z_0-9]+):", text("docs/data.md").partition("## Commands")[0]))
    assert documented == set(sources.FORMATS)


def test_the_public_files_are_those_that_the_config_reads():
    listed = set(re.findall(r"`((?:domain|preference|instruct)/[\w/]+\.jsonl(?:\.gz)?)`", text("docs/data.md")))
    flat = flatten(load_config(str(ROOT / "configs" / "smollm2_ecqa.py")))
    read = {value.partition(":")[2] for value in flat.values() if isinstance(value, str) and ".jsonl" in value}
    assert read == listed


def test_the_json_examples_are_records():
    (block,) = blocks("docs/data.md", "json")
    lines = [json.loads(line) for line in block.splitlines()]
    for kind, obj in zip((Instruction, Ranking, Prompt, Text), lines, strict=True):
        kind.from_json(obj)


def test_the_rule_book_is_the_one_in_the_code():
    page = text("docs/adreview.md")
    table = "\n".join(f"| {rule.number} | {rule.name} | {rule.text} |" for rule in rules.RULES.values())
    assert table in page
    tasks = page.partition("The general tasks:")[2].partition(".")[0]
    assert re.findall(r"`(\w+)`", tasks) == list(general.TASKS)
    rows = re.findall(r"^\| (`.*?) \| (?:text|instruction|ranking|prompt) \|", page, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == set(build.SETS)


def test_the_numbers_of_the_judge_and_the_annotators_are_those_in_the_code():
    page = text("docs/adreview.md")
    base = 1 - judge.CONCISION_WEIGHT
    assert f"({base:.1f} + {judge.CONCISION_WEIGHT} concision)" in page
    assert f"{judge.VERDICT_WEIGHT} + {1 - judge.VERDICT_WEIGHT:.1f} analysis" in page
    assert f"times {judge.WRONG_VERDICT_WEIGHT} analysis" in page
    assert f"times {judge.UNNAMED_CREDIT} without" in page and f"times {judge.WRONG_REASON_CREDIT} if the" in page
    assert f"deviation {annotators.NOISE}" in page and f"rounded to {annotators.RESOLUTION}" in page
    shares = demonstrations.demonstrations.__kwdefaults__
    assert f"{shares['verdict_only']:.0%}".replace("%", " %") + " with the verdict only" in page
    assert f"{shares['wrong']:.0%}".replace("%", " %") + " with another flaw" in page
    assert (len(splits.HELD_OUT_NOUNS), len(splits.HELD_OUT_PAIRS)) == (6, 6)
