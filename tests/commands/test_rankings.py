"""ICE-Reward on rankings that say nothing."""

import pytest

from icegrt_jax import files
from icegrt_jax.data.records import Ranking, read_jsonl, write_jsonl
from tests.commands.runs import call, copy_parts


def test_answers_that_read_the_same_are_left_out_of_the_accuracy_and_counted(finished, tmp_path):
    """Pairs, and the same pairs beside as many of one answer given twice and pairs whose better answer is also last."""
    records = read_jsonl(finished[0] / "data" / "heldout_rankings.jsonl", Ranking)[:6]
    plain = [Ranking(r.prompt, r.responses[:2], (1.0, 2.0)) for r in records]
    same = [Ranking(r.prompt, (r.responses[0],) * 2, (1.0, 2.0)) for r in records]
    both = [Ranking(r.prompt, (*r.responses[:2], r.responses[0]), (1.0, 2.0, 3.0)) for r in records]
    accuracy, counts = {}, {}
    for name, held in (("plain", plain), ("same", plain + same + both)):
        workdir = copy_parts(finished, tmp_path / name, "data", "tokenizer", "sft")
        rows = workdir / "rows.jsonl"
        write_jsonl(rows, held)
        keys = {f"reward.{key}": f"jsonl:{rows}" for key in ("sources.made", "sources.own", "heldout.made")}
        keys |= {"reward.on_policy_k": 0, "reward.steps": 1, "reward.normalize_on": 2}
        assert call("reward", workdir, **keys) == 0
        accuracy[name] = files.read_json(workdir / "reward" / "done.json")["heldout"]["made/accuracy"]
        counts[name] = files.read_json(workdir / "reward" / "data.json")
    # Of the two pairs that are left of the last kind, one is right and one wrong.
    assert accuracy["same"] == pytest.approx((accuracy["plain"] + 0.5) / 2)
    expected = {"records": 18, "kept": 12, "identical": 6, "tied": 0, "pairs_identical": 12}
    for name in ("made", "heldout made"):
        assert counts["same"][name].items() >= expected.items()
