"""What people are shown, what they say, and what is made of it."""

import json
import re
import time

import pytest

from icegrt_jax import cli
from icegrt_jax.commands import run
from icegrt_jax.data.records import Ranking, read_jsonl
from icegrt_jax.errors import UserError
from icegrt_jax.pages import access
from icegrt_jax.pages.rank import agree, export, items, order, service
from icegrt_jax.pages.rank.store import Decision, Judgement, Store
from tests.pages.conftest import TOKENS, Rank, TestClient
from tests.pages.records import write_records

BEST_FIRST = {"answer 0": 1, "answer 1": 2, "answer 2": 3, "answer 3": 4}
WORST_FIRST = {"answer 0": 4, "answer 1": 3, "answer 2": 2, "answer 3": 1}


def test_an_order_is_another_one_for_everybody_and_the_same_after_a_restart():
    keys = [f"key {i}" for i in range(200)]
    ann, bob = (order.prompts(0, name, keys) for name in ("ann", "bob"))
    assert sorted(ann) == list(range(200)) and ann != bob and ann == order.prompts(0, "ann", keys)
    assert ann != order.prompts(1, "ann", keys)
    more = order.prompts(0, "ann", [*keys, "late"])
    assert [place for place in more if place < 200] == ann, "what comes later changes nothing among the others"
    first = [order.answers(0, "ann", key, False, 4) for key in keys]
    assert {place: sum(one[0] == place for one in first) > 30 for place in range(4)} == dict.fromkeys(range(4), True)
    again = [order.answers(0, "ann", key, True, 2) for key in keys]
    assert all(one != order.answers(0, "ann", key, False, 2) for one, key in zip(again, keys))


def test_records_are_read_from_a_file_or_a_folder_with_or_without_ranks(tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    write_records(folder / "a.jsonl", 2)
    rows = [
        {"prompt": "only answers", "responses": ["x", "y", "x"]},
        {"prompt": "the same", "responses": ["x", "x"]},
        {"prompt": "ranked", "chosen": "good", "rejected": "bad", "meta": {"n": 1}},
        {"prompt": "question 0", "responses": [f"answer {k} to 0" for k in (3, 2, 1, 0)], "ranks": [1, 2, 3, 4]},
    ]
    (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = items.read(str(folder))
    assert [item.prompt[0]["content"] for item in found.items] == ["question 0", "question 1", "only answers", "ranked"]
    assert (found.left_out, found.again) == (1, 1) and found.items[2].responses == ("x", "y")
    assert found.items[3].meta == {"n": 1}
    (folder / "c.jsonl").write_text(json.dumps({"prompt": "q", "responses": [str(i) for i in range(10)]}))
    with pytest.raises(UserError, match="c.jsonl, line 1: 10 answers; 9 at most"):
        items.read(str(folder))
    (folder / "c.jsonl").write_text(json.dumps({"prompt": "q", "answers": ["x"]}))
    with pytest.raises(UserError, match="c.jsonl, line 1: "):
        items.read(str(folder))
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no .jsonl file in this folder"):
        items.read(str(tmp_path / "none"))


def test_ties_partial_ranks_ratings_and_notes_are_exported(opened):
    page = opened(count=1)
    ann = page.browser("ann")
    shown = page.desk.next("ann")
    number = {answer["text"].split(" to ")[0]: answer["number"] for answer in shown.answers()}
    ratings = {f"clarity-{number['answer 1']}": 5, f"safety-{number['answer 3']}": 2}
    page.rank(ann, "ann", {"answer 1": 2, "answer 2": 2, "answer 3": 4}, note="  why  ", **ratings)
    [record] = export.rankings(page.store.all_items(), page.store.judgements(), {}, apart=False)
    assert record.responses == ("answer 1 to 0", "answer 2 to 0", "answer 3 to 0") and record.ranks == (1.0, 1.0, 3.0)
    assert record.meta["people"] == {
        "annotators": ["ann"], "ranks": [[1, 1, 3]], "notes": ["why"], "not_ranked": ["answer 0 to 0"],
        "ratings": [{"clarity": [5, None, None], "safety": [None, None, 2]}],
    }  # fmt: skip
    assert Ranking.from_json(json.loads(json.dumps(record.to_json()))).ranks == record.ranks


def test_undo_goes_back_one_by_one_and_saving_again_replaces(opened):
    page = opened(count=3)
    ann = page.browser("ann")
    numbers = [page.rank(ann, "ann", BEST_FIRST) for _ in range(2)]
    numbers.append(page.rank(ann, "ann", None))
    assert "All done" in ann.get("/rank").text
    shown = ann.get("/before?item=0").text
    assert f'name="item" value="{numbers[2]}"' in shown and "this one was skipped" in shown
    shown = ann.get(f"/before?item={numbers[2]}").text
    assert f'name="item" value="{numbers[1]}"' in shown and shown.count(" selected") == 4
    assert ann.get(f"/before?item={numbers[0]}").url.path == "/rank", "nothing is before the first"
    places = page.desk.show("ann", numbers[1], False).places
    fields = {f"rank-{n}": 4 - place for n, place in enumerate(places, 1)}
    ann.post("/rank", data={"item": numbers[1], "again": 0, "do": "save", **fields})
    said = page.store.judgements("ann", numbers[1])
    assert [one.ranks for one in said] == [(4, 3, 2, 1)] and len(page.store.judgements()) == 3


def test_one_in_n_is_shown_again_blind_and_measures_agreement_with_oneself(opened):
    pytest.importorskip("krippendorff", reason="needs the extra rank")
    page = opened(count=12, every=4)
    ann = page.browser("ann")
    seen = []
    while (shown := page.desk.next("ann")) is not None:
        assert "again" not in ann.get("/rank").text.replace('name="again"', "").replace("again=", "")
        seen.append((page.rank(ann, "ann", BEST_FIRST if len(seen) % 2 else WORST_FIRST), shown.again))
    repeats = [number for number, again in seen if again]
    assert len(seen) == 12 + 3 and len(set(repeats)) == 3
    # The last five are still remembered.
    assert all(seen.index((number, False)) + 5 < seen.index((number, True)) for number in repeats)
    found = export.summary(page.store, page.store.judgements(), 0)
    one = found["annotators"]["ann"]
    assert (one["ranked"], one["again"], one["pairs_with_self"]) == (12, 3, 18)
    expected = [seen.index((n, False)) % 2 == seen.index((n, True)) % 2 for n in repeats]
    assert one["like_self"] == sum(expected) / 3
    assert found["alpha"]["with_themselves"]["preference"]["answers"] == 12
    assert found["alpha"]["annotators"]["preference"] == {"alpha": None, "answers": 0}


def test_votes_share_the_prompts_out(opened):
    page = opened(count=6, votes=1)
    people = {name: page.browser(name) for name in ("ann", "bob")}
    assert "0 saved, 0 of 6 ranked by all together" in people["ann"].get("/rank").text
    ranked = [page.rank(people[name], name, BEST_FIRST) for name in ("ann", "bob") * 3]
    assert sorted(ranked) == [1, 2, 3, 4, 5, 6] and page.desk.next("ann") is page.desk.next("bob") is None
    assert page.store.untouched() == 0


def test_conflicts_are_decided_by_a_named_adjudicator(opened):
    pytest.importorskip("krippendorff", reason="needs the extra rank")
    page = opened(count=2)
    people = {name: page.browser(name) for name in ("ann", "bob")}
    for _ in range(2):
        number = page.rank(people["ann"], "ann", BEST_FIRST)
    for _ in range(2):
        shown = page.desk.next("bob").number
        page.rank(people["bob"], "bob", WORST_FIRST if shown == number else BEST_FIRST, note="no")
    lea = page.browser("lea", access.LEAD)
    assert agree.conflicts(page.store.judgements()) == {number: 6}
    assert f"/adjudicate/{number}" in lea.get("/adjudicate").text and "nobody yet" in lea.get("/adjudicate").text
    text = lea.get(f"/adjudicate/{number}").text
    assert "<bdi>ann</bdi>: <strong>1</strong>" in text and "<bdi>bob</bdi>:</strong> no" in text
    places = page.desk.show("\0adjudicator", number, False).places
    fields = {f"rank-{n}": 1 if place == 2 else 2 for n, place in enumerate(places, 1)}
    assert "lea" in lea.post("/adjudicate", data={"item": number, "note": "2 is right", **fields}).text
    for apart, count in ((False, 2), (True, 3)):
        found = export.rankings(page.store.all_items(), page.store.judgements(), page.store.decisions(), apart=apart)
        assert len(found) == count
        [decided] = [one for one in found if "adjudicator" in one.meta["people"]]
        assert decided.ranks == (2.0, 2.0, 1.0, 2.0) and decided.meta["people"]["decision"] == "2 is right"
        assert decided.meta["people"]["annotators"] == ["ann", "bob"]
    text = lea.post("/export", data={}).text
    assert "2 of 2 prompts are ranked" in text and "50 % of 12" in text
    assert len(read_jsonl(page.folder / "rankings.jsonl", Ranking)) == 2
    assert len((page.folder / "judgements.jsonl").read_text().splitlines()) == 4
    assert lea.get("/rankings.jsonl").text == (page.folder / "rankings.jsonl").read_text()
    assert len(lea.get("/rankings.jsonl?apart=1").text.splitlines()) == 3
    kept = json.loads((page.folder / "agreement.json").read_text())
    assert kept["conflicts"] == kept["decided"] == 1 and kept["annotators"]["ann"]["like_others"] == 0.5
    assert lea.post("/finish").status_code == 404, "nobody waits"


@pytest.mark.parametrize(
    ("rankings", "expected"),
    [
        ([(1, 2, 3)], (1, 2, 3)),
        ([(1, 1, 3)], (1, 1, 3)),
        ([(1, 2, 3), (1, 3, 2)], (1, 2, 2)),
        ([(1, 2), (2, 1)], (1, 1)),
        ([(1, 2, None), (None, 1, 2)], (1, 2, 3)),
        ([(1, None, 2), (1, None, None)], (1, None, 2)),
        ([(1, 2), (1, 2), (2, 1)], (1, 2)),
    ],
)
def test_several_rankings_become_one_by_comparisons_won(rankings, expected):
    assert export.merged(rankings) == expected


def test_pairs_are_counted_by_hand():
    assert agree.pairs((1, 2, 3), (1, 3, 2)) == agree.Pairs(3, 2, 1)
    assert agree.pairs((1, 1, None), (1, 2, 3)) == agree.Pairs(1, 0, 0), "a tie is neither alike nor opposite"
    assert agree.Pairs().share is None


def test_alpha_of_rankings_is_1_for_the_same_and_below_0_for_opposite_ones():
    pytest.importorskip("krippendorff", reason="needs the extra rank")
    said = lambda name, ranks: [Judgement(name, item, False, ranks, {"clarity": [1, 5]}) for item in range(1, 9)]
    same = agree.alphas([*said("ann", (1, 2)), *said("bob", (1, 2))])["annotators"]
    assert same["preference"] == {"alpha": 1.0, "answers": 16} == same["clarity"]
    assert agree.alphas([*said("ann", (1, 2)), *said("bob", (2, 1))])["annotators"]["preference"]["alpha"] < -0.9


def test_a_store_takes_more_records_and_refuses_others(tmp_path):
    few = items.read(str(write_records(tmp_path / "few.jsonl", 3))).items
    more = items.read(str(write_records(tmp_path / "more.jsonl", 5))).items
    store = Store(tmp_path / "out", new=True)
    store.add(few)
    store.save(Judgement("ann", 2, False, (1, 2, 3, 4)))
    store.decide(Decision("lea", 2, (1, 2, 3, 4)))
    store.add(more)
    assert len(store.keys_of_items()) == 5 and store.item(2) == few[1] and store.untouched() == 4
    with pytest.raises(UserError, match="2 of the 5 prompts .* choose another --out"):
        store.add(few)
    store.close()
    again = Store(tmp_path / "out", new=False)
    assert again.judgements()[0].ranks == (1, 2, 3, 4) and again.decisions()[2].adjudicator == "lea"
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "rank.sqlite").write_bytes(b"no database, and longer than a header would be" * 30)
    with pytest.raises(UserError, match="no file of rankings"):
        Store(tmp_path / "bad", new=True)
    assert oct((tmp_path / "out" / "rank.sqlite").stat().st_mode)[-3:] == "600"


def test_ten_thousand_records_open_in_two_seconds(tmp_path):
    path = write_records(tmp_path / "many.jsonl", 10_000)
    began = time.process_time()
    page = Rank(tmp_path / "out", items.read(str(path)).items, every=10)
    ann = page.browser("ann")
    assert "0 of 10000 saved" in ann.get("/rank").text
    first = time.process_time() - began
    kept = [*page.store.all_items().values()]
    page.store.close()
    began = time.process_time()
    assert "0 of 10000 saved" in Rank(tmp_path / "out", kept, every=10).browser("ann").get("/rank").text
    print(f"\n10,000 records: first start {first:.2f} s, again {time.process_time() - began:.2f} s, of this process")
    assert first < 2


def test_the_guideline_is_a_file_or_that_of_the_domain(tmp_path):
    item = lambda task: items.Item(({"role": "user", "content": "q"},), ("a", "b"), {"task": task})
    assert "8. quick riches: an ad may not promise easy money." in service.guideline("", [item("adreview")] * 2)
    assert service.guideline("", [item("adreview"), item("other")]) == service.guideline("", [item(["odd"])]) == ""
    (tmp_path / "rules.md").write_text("be kind")
    assert service.guideline(str(tmp_path / "rules.md"), []) == "be kind"
    with pytest.raises(UserError, match="--guideline=nowhere: no such file"):
        service.guideline("nowhere", [])


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    for flags, said in (
        ([f"--out={tmp_path / 'none'}"], "no rank.sqlite here, so nothing has been ranked; name --records"),
        ([f"--out={tmp_path / 'none'}", "--export"], "no rank.sqlite here"),
        ([f"--out={tmp_path}", "--export", "--records=x"], "takes no --records"),
        ([f"--out={tmp_path}", "--records=nowhere.jsonl"], "nowhere.jsonl: no such file"),
        ([f"--out={tmp_path}", "--port=-1"], "invalid whole number"),
    ):
        assert cli.main(["rank", *flags]) == 2 and said in capsys.readouterr().err, flags
    assert not (tmp_path / "none").exists() and not (tmp_path / "rank.sqlite").exists()


def test_a_run_waits_for_people_until_each_prompt_is_ranked_by_somebody(tmp_path, monkeypatch, capsys):
    pytest.importorskip("krippendorff", reason="needs the extra rank")
    asked, ranked = write_records(tmp_path / "to_rank.jsonl", 3), tmp_path / "rankings_round2.jsonl"
    monkeypatch.setenv("ICEGRT_PAGE_TOKEN", TOKENS[access.USER])
    monkeypatch.setenv("ICEGRT_PAGE_LEAD_TOKEN", TOKENS[access.LEAD])
    seen = []

    def ranks_one(app, opened, until):
        """In place of the server: somebody ranks one prompt, and who leads looks at it."""
        opened.close()
        ann, lea = TestClient(app, base_url="http://page"), TestClient(app, base_url="http://page")
        lea.get(f"/?token={TOKENS[access.LEAD]}")
        ann.get(f"/?token={TOKENS[access.USER]}")
        text = ann.post("/name", data={"name": "ann"}).text
        number = re.search(r'name="item" value="(\d)"', text)[1]
        assert "8. quick riches" in text and not until()
        ann.post("/rank", data={"item": number, "again": 0, "do": "save", "rank-1": 2, "rank-2": 1})
        seen.append(until())
        if len(seen) == 2:
            assert "Enough" in lea.get("/results").text and not until()
            assert "The run goes on" in lea.post("/finish").text and until()

    monkeypatch.setattr(service.web, "serve", ranks_one)
    wait = run._by_people(2, "people", "adreview", "127.0.0.1", 0)
    wait(asked, ranked)
    assert len(read_jsonl(ranked, Ranking)) == 1
    wait(asked, ranked)
    wait(asked, ranked)
    assert seen == [False, False, True], "all are ranked"
    assert [sorted(record.ranks) for record in read_jsonl(ranked, Ranking)] == [[1.0, 2.0]] * 3
    assert "3 prompts, 2 of them ranked" in capsys.readouterr().out
    with pytest.raises(UserError, match="rounds=1 and annotation.by='people': nobody will be waited for"):
        run._by_people(1, "people", "", "", 0)
    with pytest.raises(UserError, match="annotation.by='domain'"):
        run._by_people(2, "domain", "", "", 0)
