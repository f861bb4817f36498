"""The page in a browser: from disk, without a network, on a desk and a phone, by keyboard, with axe-core looking on."""

import pytest

from icegrt_jax.commands import report
from tests.browser import visit
from tests.report import made

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    workdir = made.write(tmp_path_factory.mktemp("made") / "run", iterations=40)
    report.main(workdir=str(workdir))
    return (workdir / "report" / "index.html").as_uri()


def draws(page, place):
    """Waits for the first chart of a part, which is drawn when it comes into sight."""
    page.locator(f"#{place} .plot").first.scroll_into_view_if_needed()
    page.locator(f"#{place} .plot svg").first.wait_for()


def test_a_person_finds_sorts_and_filters_answers_and_nothing_goes_wrong(browser, url):
    with visit(browser, url) as seen:
        page = seen.page
        draws(page, "charts-ppo")
        status = page.locator("#browser [role=status]")
        assert status.text_content().startswith("64 of 64 shown") and page.title() == "ICE-GRT run: run"
        first = page.locator("#browser article").first
        assert made.SCRIPT in first.text_content(), "a script in an answer is a text"
        page.get_by_label("Sort by").select_option("gold")
        assert "prompt number 63" in first.text_content()
        page.get_by_role("button", name="Highest first").press("Enter")  # by keyboard
        assert "prompt number 0" in first.text_content()
        page.get_by_label("Search in prompts and answers").fill("number 17 ")
        assert status.text_content().startswith("1 of 64")
        page.get_by_label("Search in prompts and answers").fill("")
        page.get_by_label("Only where").select_option("gold")
        page.get_by_label("at least").fill("0.95")
        assert status.text_content().startswith("14 of 64"), "gold of ICE-GRT from 0.95 on"
        page.get_by_label("Mark differences to").select_option("ICE-Instruct")
        assert first.locator("mark").count() > 0
        page.get_by_label("Colour tokens by").select_option("kl")
        assert "rgba" in first.locator(".token").first.get_attribute("style")
        assert page.locator("#browser .legend").text_content().startswith("KL (nats): −0.")
        page.locator("#browser [data-key=collection]").select_option("2")
        assert "iteration 8" in first.text_content()
        page.get_by_role("button", name="All columns").click()
        assert page.get_by_text("task: copy").is_visible()
        assert seen.errors == [] and seen.faults() == [] and seen.overflow() == 0


def test_the_page_is_read_in_the_dark_and_on_a_phone(browser, url):
    with visit(browser, url, width=360, height=740, dark=True) as seen:
        draws(seen.page, "charts-evaluation")
        assert seen.page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert seen.overflow() == 0 and seen.errors == [] and seen.faults() == []
        seen.page.get_by_role("button", name="Theme: system").click()
        assert seen.page.evaluate("document.documentElement.dataset.theme") == "light"


def test_paper_is_white_and_has_every_chart(browser, url):
    from playwright.sync_api import expect

    with visit(browser, url, dark=True) as seen:
        places, drawn = seen.page.locator(".plot"), seen.page.locator(".plot .plot-container")
        draws(seen.page, "charts-evaluation")
        assert 0 < drawn.count() < places.count(), "charts are drawn when they come into sight"
        assert seen.page.pdf(format="A4").startswith(b"%PDF")
        expect(drawn).to_have_count(places.count())
        assert seen.page.evaluate("document.documentElement.dataset.theme") == "dark" and seen.errors == []


def test_runs_laid_over_each_other_are_a_page_of_their_own(browser, url, tmp_path):
    folders = [made.write(tmp_path / name, iterations=10, prompts=2) for name in ("one", "two")]
    report.main(compare=[str(folder) for folder in folders])
    with visit(browser, (folders[0] / "report" / "compare.html").as_uri(), width=390) as seen:
        draws(seen.page, "charts-ppo")
        assert seen.overflow() == 0 and seen.errors == [] and seen.faults() == []
