"""The pages in a real browser: ten prompts ranked by keys alone, and a reward model trained on what comes out."""

import contextlib
import threading
import time

import pytest
import uvicorn

import icegrt_jax as ice
from icegrt_jax.data.records import Ranking, read_jsonl
from icegrt_jax.pages import access, web
from icegrt_jax.pages.chat import app as chat_app
from icegrt_jax.pages.chat.talk import Answer, Settings, Talk, Voice
from icegrt_jax.pages.rank import items
from tests.api.tiny import write_models
from tests.browser import browser, visit  # noqa: F401 - a fixture
from tests.pages.conftest import TOKENS, Rank
from tests.pages.records import write_records

PHONE = 390


@contextlib.contextmanager
def served(app):
    """The address of an application that runs in a thread."""
    opened = web.listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{opened.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        opened.close()


@pytest.fixture
def ranking(tmp_path):
    page = Rank(tmp_path / "out", items.read(str(write_records(tmp_path / "r.jsonl", 11))).items)
    with served(page.app) as url:
        yield page, url


def order_of(page) -> list[int]:
    """Of what is shown, the numbers of the answers from "answer 0" to "answer 3"."""
    texts = page.locator(".answer > .said").all_inner_texts()
    return [next(n for n, text in enumerate(texts, 1) if text.startswith(f"answer {k} ")) for k in range(4)]


def begin(seen, url: str, name: str) -> None:
    seen.page.get_by_label("Your name").fill(name)
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_url(f"{url}/rank")


def test_ten_prompts_by_keyboard_then_export_and_a_reward_model(browser, ranking, tmp_path):  # noqa: F811
    page, url = ranking
    began, keys = time.perf_counter(), 0
    with visit(browser, f"{url}/?token={TOKENS[access.LEAD]}") as seen:
        begin(seen, url, "ann")
        press = seen.page.keyboard.press
        for done in range(10):
            seen.page.get_by_text(f"{done} of 11 saved").wait_for()
            for number in order_of(seen.page):
                press(str(number))
                keys += 1
            press("Enter")
            keys += 1
        seen.page.get_by_text("10 of 11 saved").wait_for()
        assert keys == 50
        print(f"\n10 prompts of 4 answers: {keys} keys, {time.perf_counter() - began:.1f} s")
        seen.page.reload()
        assert seen.page.get_by_text("10 of 11 saved").is_visible() and len(page.store.judgements()) == 10
        assert {said.ranks for said in page.store.judgements()} == {(1, 2, 3, 4)}
        press("u")
        seen.page.get_by_text("Change what you said").wait_for()
        number = order_of(seen.page)[3]
        press("Backspace"), press("Backspace"), press("t"), press(str(number)), press("e"), press("Enter")
        seen.page.get_by_text("Rank the answers").wait_for()
        assert page.store.judgements()[-1].ranks == (1, 2, 4, 2), "a tie, and what is left behind it"
        press("r")
        for score in "54321543":
            press(score)
        press("Escape"), press("n")
        seen.page.keyboard.type("1 s u")
        press("Escape"), press("s")
        seen.page.get_by_text("All done").wait_for()
        skipped = page.store.judgements()[-1]
        assert skipped.ranks is None and skipped.note == "1 s u" and len(skipped.ratings) == 8
        seen.page.get_by_role("link", name="Results").click()
        seen.page.get_by_role("button", name="Export").click()
        seen.page.get_by_text("a source of the reward stage").wait_for()
        assert seen.errors == []
    records = read_jsonl(page.folder / "rankings.jsonl", Ranking)
    assert len(records) == 10
    write_models(tmp_path / "models")
    policy = ice.load_model(tmp_path / "models" / "policy")
    heldout, length = records[:2], 128
    training = ice.train_reward(policy, records[2:], heldout=heldout, steps=20, batch_size=8, length=length)
    training.finish()
    accuracy = training.metrics[-1]["heldout/accuracy"]
    print(f"held-out accuracy of a reward model trained on them for twenty steps: {accuracy:.2f}")
    assert accuracy > 0.8, "an easy task"


def test_nothing_hinders_anybody_on_any_page(browser, ranking):  # noqa: F811
    page, url = ranking
    for name in ("ann", "bob"):
        client = page.browser(name)
        for _ in range(3):
            ranks = {f"answer {k}": k + 1 if name == "ann" else 4 - k for k in range(4)}
            page.rank(client, name, ranks, note="because")
    [number, *_] = [one.item for one in page.store.judgements("ann")]
    for width, dark in ((1280, False), (PHONE, True)):
        with visit(browser, f"{url}/?token={TOKENS[access.LEAD]}", width=width, height=844, dark=dark) as seen:
            assert seen.faults() == [] and seen.overflow() == 0
            begin(seen, url, "lea")
            for path in ("/rank", "/results", "/adjudicate", f"/adjudicate/{number}"):
                seen.page.goto(url + path)
                assert seen.faults() == [], path
                assert seen.overflow() == 0, path
            seen.page.goto(f"{url}/rank")
            chip, slot = seen.page.get_by_role("button", name="Answer 2"), seen.page.locator(".slot[data-rank='1']")
            seen.page.locator(".bar").scroll_into_view_if_needed()
            start, end = chip.bounding_box(), slot.bounding_box()
            seen.page.mouse.move(start["x"] + 8, start["y"] + 8)
            seen.page.mouse.down()
            seen.page.mouse.move(end["x"] + 20, end["y"] + 30, steps=5)
            seen.page.mouse.up()
            assert seen.page.locator("[name=rank-2]").input_value() == "1", "dragged"
            seen.page.get_by_role("button", name="Answer 3").click()
            assert seen.page.locator("[name=rank-3]").input_value() == "2", "clicked"
            assert seen.errors == []


def test_a_chat_in_the_browser(browser, tmp_path, monkeypatch):  # noqa: F811
    say = lambda self, voice, said, key: Answer(f"{voice.name}: {said[-1]['content']}")
    monkeypatch.setattr(Talk, "_answer", say)
    voices = [Voice(name, None) for name in ("base", "ICE-Instruct", "ICE-GRT")]
    pages = chat_app.Pages(voices, Settings(1.0, 16), tmp_path / "kept.jsonl")
    with served(pages.app({access.USER: TOKENS[access.USER]})) as url:
        for width, dark in ((1280, True), (PHONE, False)):
            with visit(browser, f"{url}/?token={TOKENS[access.USER]}", width=width, height=844, dark=dark) as seen:
                seen.page.locator("#text:focus").wait_for()
                seen.page.keyboard.type("<b>hello</b>")
                seen.page.keyboard.press("Enter")
                seen.page.get_by_text("ICE-GRT: <b>hello</b>").wait_for()
                for place, rank in enumerate(("2", "3", "1"), 1):
                    seen.page.locator(f"[name=rank-{place}]").select_option(rank)
                assert seen.faults() == [] and seen.overflow() == 0
                seen.page.get_by_role("button", name="Keep as a ranking").click()
                seen.page.get_by_text("Kept in").wait_for()
                assert seen.faults() == [] and seen.errors == []
    assert [record.ranks for record in read_jsonl(tmp_path / "kept.jsonl", Ranking)] == [(2.0, 3.0, 1.0)] * 2
