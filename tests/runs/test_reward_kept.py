"""What reward functions have said is asked once of a rollout, however often the run is begun again."""

import random

import pytest

from icegrt_jax.data.records import Prompt, user
from icegrt_jax.runs import kept, reward_kept
from icegrt_jax.runs.rewards import NONE, RewardError, Rewards
from tests.faults.damages import WAYS, damage

RECORDS = [Prompt(user(f"question {i}"), f"answer {i}", {"task": i}, f"p.jsonl, line {i + 1}") for i in range(3)]
TEXTS = ["a", "bb", ""]
# Never says the same twice, as a language model may; knows nothing of an empty answer, and fails on "bb".
OWN = """
import pathlib
CALLS = pathlib.Path(__file__).with_name("calls")

def judge(prompts, responses, records):
    calls = CALLS.read_text().count(".") if CALLS.exists() else 0
    CALLS.write_text("." * (calls + 1))
    return [None if not text else "?" if text == "bb" else 0.1 + calls for text in responses]
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own.py").write_text(OWN)
    return tmp_path / "own"


def said(folder, own, *, step=3, records=RECORDS, texts=TEXTS, every=2, file="own.py", failed=NONE, **more):
    """The answer in a run that begins here."""
    with Rewards({"judge": f"{own / file}:judge"}, failed=failed, folder=folder, **more) as rewards:
        return reward_kept.ask(rewards, kept.place(folder, every), step, records, texts, group=1)()


def test_what_was_said_is_found_to_the_bit_with_what_failed_and_what_is_not_known(tmp_path, own, capsys):
    first = said(tmp_path, own)
    assert first.values == {"judge": [0.1, None, None]} and first.failed == {"judge": 1}
    assert "is there" not in capsys.readouterr().out
    assert said(tmp_path, own) == said(tmp_path, own, workers=1) == first
    assert capsys.readouterr().out.count("what the reward functions say of iteration 3 is there") == 2
    assert (own / "calls").read_text() == "."


@pytest.mark.parametrize("other", [
    {"texts": ["a", "bb", "c"]}, {"records": RECORDS[::-1]}, {"step": 4}, {"failed": "-3"},
    {"records": [*RECORDS[:2], Prompt(RECORDS[2].prompt, "another reference", RECORDS[2].meta)]},
])  # fmt: skip
def test_of_another_rollout_or_with_another_value_for_failures_they_are_asked(tmp_path, own, other):
    said(tmp_path, own)
    assert said(tmp_path, own, **other).values["judge"][0] == 1.1


def test_a_function_that_was_mended_is_asked_anew_and_so_where_a_module_beside_it_was(tmp_path, own):
    said(tmp_path, own)
    (own / "own.py").write_text(OWN.replace("0.1 +", "0.2 +"))
    assert said(tmp_path, own).values["judge"][0] == 1.2
    (own / "helper.py").write_text("")
    assert said(tmp_path, own).values["judge"][0] == 2.2
    (own / "copy.py").write_text((own / "own.py").read_text())
    assert said(tmp_path, own, file="copy.py").values["judge"][0] == 3.2


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_file_is_asked_for_anew(tmp_path, own, way):
    said(tmp_path, own)
    (file,) = (tmp_path / kept.FOLDER).iterdir()
    damage(file, way, random.Random(0))
    again = said(tmp_path, own)
    assert again.values["judge"][0] == 1.1 and said(tmp_path, own) == again


def test_nothing_is_kept_behind_two_checkpoints_nor_of_what_failed_or_where_nowhere_is_given(tmp_path, own):
    for step in (1, 2, 3, 4, 5):
        said(tmp_path, own, step=step)
    assert {int(path.name.partition("-")[0]) for path in (tmp_path / kept.FOLDER).iterdir()} == {3, 4, 5}
    with Rewards({"judge": f"{own / 'own.py'}:judge"}) as rewards:
        with pytest.raises(RewardError):
            reward_kept.ask(rewards, kept.place(tmp_path), 7, RECORDS, TEXTS, group=1)()
        assert reward_kept.ask(rewards, None, 9, RECORDS[:1], TEXTS[:1], group=1)().values == {"judge": [6.1]}
    assert len(list((tmp_path / kept.FOLDER).iterdir())) == 3
