"""Answers that were sampled before, by prompt: of a row of an evaluation, or of a file that `icegrt sample` wrote."""

import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from icegrt_jax import files
from icegrt_jax.data.records import Instruction, Prompt, Ranking
from icegrt_jax.data.rows import json_lines
from icegrt_jax.errors import UserError

ANSWERS, PROMPTS = "by_prompt.jsonl", "prompts.jsonl"  # in WORKDIR/evaluate
DECODINGS = ("sampled", "greedy", "best")
FORMS = "a .jsonl file, RUN:ROW or RUN:ROW:DECODING"


@dataclass(frozen=True)
class Sampled:
    """The answers of one policy.

    Attributes:
      name: of it, as given.
      prompts: that were answered, by their messages as JSON.
      answers: to each of them, under the same keys.
    """

    name: str
    prompts: dict[str, Prompt] = field(default_factory=dict)
    answers: dict[str, list[str]] = field(default_factory=dict)

    def add(self, prompt: Prompt, answers: Sequence[str]) -> None:
        said = key_of(prompt)
        self.prompts.setdefault(said, prompt)
        self.answers.setdefault(said, []).extend(answers)


def key_of(prompt: Prompt) -> str:
    """The same for prompts that say the same."""
    return json.dumps([[message["role"], message["content"]] for message in prompt.prompt], ensure_ascii=False)


def read(flag: str, spec: str) -> Sampled:
    """The answers that a flag names."""
    if spec.endswith(".jsonl"):
        return _of_file(spec)
    run, row, decoding = _parts(flag, spec)
    folder = pathlib.Path(run).expanduser() / "evaluate"
    for name in (ANSWERS, PROMPTS):
        if not (folder / name).is_file():
            older = ", or its evaluation is of an older version" if (folder / ANSWERS).is_file() else ""
            raise UserError(
                f"{flag}={spec}: no {name} in {folder}{older}; evaluate the run, its old evaluate/ moved away."
            )
    prompts = {
        line["place"]: Prompt.from_json(
            {name: value for name, value in line.items() if name in (*Prompt.FIELDS, "meta")}, f"{folder / PROMPTS}"
        )
        for line in files.read_jsonl(folder / PROMPTS)
        if line["group"] == "domain"
    }
    lines = [line for line in files.read_jsonl(folder / ANSWERS) if line["group"] == "domain"]
    found = Sampled(spec)
    for line in lines:
        if (line["row"], line["decoding"]) == (row, decoding):
            found.add(prompts[line["prompt"]], [line["answer"]])
    if not found.prompts:
        there = ", ".join(dict.fromkeys(f"{line['row']}:{line['decoding']}" for line in lines)) or "none"
        raise UserError(f"{flag}={spec}: {folder / ANSWERS} has no such answers to in-domain prompts; it has {there}.")
    return found


def common(ours: Sampled, theirs: Sampled, limit: int = 0) -> list[str]:
    """Keys of the prompts that both have answered, in the order of ours; the first `limit`, 0: all."""
    both = [said for said in ours.prompts if said in theirs.prompts]
    if not both:
        raise UserError(f"{ours.name} and {theirs.name} answer no prompt that is the same; expected the same prompts.")
    return both[: limit or None]


def _parts(flag: str, spec: str) -> tuple[str, str, str]:
    parts = spec.rsplit(":", 2)
    if len(parts) == 3 and parts[2] not in DECODINGS:  # a colon in the path
        parts = spec.rsplit(":", 1)
    if len(parts) < 2 or not all(parts):
        raise UserError(f"{flag}={spec}: expected {FORMS}, such as runs/quickstart:ICE-GRT:greedy.")
    return parts[0], parts[1], parts[2] if len(parts) == 3 else DECODINGS[0]


def _of_file(path: str) -> Sampled:
    found = Sampled(path)
    for where, obj in json_lines(pathlib.Path(path).expanduser()):
        if isinstance(obj, dict) and ("responses" in obj or "chosen" in obj):
            ranking = Ranking.from_json(obj, where)
            found.add(_prompt(ranking.prompt, ranking.meta, where), ranking.responses)
        else:
            example = Instruction.from_json(obj, where)
            found.add(_prompt(example.messages[:-1], example.meta, where), [str(example.messages[-1]["content"])])
    if not found.prompts:
        raise UserError(f"{path}: no answers; expected what `icegrt sample` writes.")
    return found


def _prompt(messages, meta: dict, where: str) -> Prompt:
    return Prompt(tuple(messages), "", meta, where)
