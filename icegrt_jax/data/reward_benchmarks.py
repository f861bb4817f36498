"""Rows of published benchmarks of reward models as rankings.

| format           | rows of                                                     | become |
| ---------------- | ----------------------------------------------------------- | ------ |
| `llmbar`         | input, output_1, output_2, label; or prompt, chosen, rejected | pairs |
| `pandalm`        | instruction, input, response1, response2, annotator1 to 3; or prompt, response_1, response_2, majority | pairs, ties where people did not agree |
| `reward_bench_2` | prompt, chosen and rejected: lists, subset, id              | the right answers above the wrong ones |
| `rm_bench`       | prompt, chosen and rejected: one answer in three styles each, domain | the same |
| `judge_bench`    | question, response_A, response_B, label "A>B" or "B>A"      | pairs |

`meta.subset` is the part of the benchmark, `meta.styles` the style of each answer, plainer ones first. An answer may be
empty, as no other record's may: a model has answered so, and people have judged it.

LLMBar: Zeng et al. 2023, https://arxiv.org/abs/2310.07641. PandaLM: Wang et al. 2023, https://arxiv.org/abs/2306.05087.
RewardBench 2: Malik et al. 2025, https://arxiv.org/abs/2506.01937. RM-Bench: Liu et al. 2024,
https://arxiv.org/abs/2410.16184. JudgeBench: Tan et al. 2024, https://arxiv.org/abs/2410.12784.
"""  # noqa: E501 - a table

import collections
from collections.abc import Callable
from typing import Any

from icegrt_jax.data.converters import Row, alpaca_instruction
from icegrt_jax.data.fields import nonempty
from icegrt_jax.data.records import Ranking, Record, user

FIRST, SECOND, TIED = (1, 2), (2, 1), (1, 1)  # ranks of two answers


def llmbar(row: Row) -> Ranking:
    if "chosen" in row:
        prompt, answers, ranks = row.text("prompt"), [row.text("chosen"), row.text("rejected")], FIRST
    else:
        prompt, answers = row.text("input"), [row.text("output_1"), row.text("output_2")]
        ranks = FIRST if _of(row, "label", (1, 2)) == 1 else SECOND
    return _ranking(row, prompt, answers, ranks, **_subset(row, "subset"))


def pandalm(row: Row) -> Ranking:
    if "response1" in row:  # as its authors publish it
        prompt = alpaca_instruction(Row({**row, "output": ""}, row.where))["prompt"]
        votes = collections.Counter(_of(row, f"annotator{i}", (0, 1, 2)) for i in (1, 2, 3))
        (verdict, count), names = votes.most_common(1)[0], ("response1", "response2")
        verdict = verdict if count > 1 else -1
    else:
        prompt, names = row.text("prompt"), ("response_1", "response_2")
        verdict = _of(row, "majority", (1, 2, 0, -1))
    ranks = {1: FIRST, 2: SECOND}.get(verdict, TIED)
    return _ranking(row, prompt, [row.text(name) for name in names], ranks)


def reward_bench_2(row: Row) -> Ranking:
    return _right_above_wrong(row, **_subset(row, "subset"))


def rm_bench(row: Row) -> Ranking:
    count = len(row.texts("chosen"))
    if len(row.texts("rejected")) != count:
        raise row.fail_type("rejected", f"{count} answers, in the styles of 'chosen'")
    # A file of one domain does not name it. Its authors count safety-refuse and safety-response as one.
    subset = {"subset": row.text("domain").partition("-")[0]} if "domain" in row else {}
    return _right_above_wrong(row, **subset, styles=[*range(count)] * 2)


def judge_bench(row: Row) -> Ranking:
    ranks = FIRST if _of(row, "label", ("A>B", "B>A")) == "A>B" else SECOND
    answers = [row.text("response_A"), row.text("response_B")]
    return _ranking(row, row.text("question"), answers, ranks, subset=_group(row.text("source")))


def _group(source: str) -> str:
    """Its authors report the fourteen parts of MMLU-Pro as one."""
    return "mmlu-pro" if source.startswith("mmlu-pro") else source


def _right_above_wrong(row: Row, **meta) -> Ranking:
    right, wrong = row.texts("chosen"), row.texts("rejected")
    return _ranking(row, row.text("prompt"), right + wrong, (1,) * len(right) + (2,) * len(wrong), **meta)


def _ranking(row: Row, prompt: str, answers: list[str], ranks: tuple[int, ...], **meta) -> Ranking:
    own = {"id": row["id"]} if "id" in row else {}
    asked = user(nonempty(prompt, row.where, "prompt"))
    return Ranking(asked, tuple(answers), tuple(map(float, ranks)), {**own, **meta}, row.where)


def _subset(row: Row, field: str) -> dict:
    return {"subset": row.text(field)} if field in row else {}


def _of(row: Row, field: str, known: tuple) -> Any:
    """The value of a field, one of those known."""
    value = row.get(field)
    if isinstance(value, bool) or value not in known:
        raise row.fail_type(field, f"one of {', '.join(map(repr, known))}")
    return value


CONVERTERS: dict[str, dict[type[Record], Callable[[Row], Ranking]]] = {
    function.__name__: {Ranking: function} for function in (llmbar, pandalm, reward_bench_2, rm_bench, judge_bench)
}
