"""Who may open a page, and that what people or models have written is never more than text."""

import re

import pytest

from icegrt_jax.errors import UserError
from icegrt_jax.pages import access, web
from icegrt_jax.pages.rank.items import Item
from tests.pages.conftest import TOKENS, Rank, TestClient

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>{{ 71993*71999 }}'
PATHS = ("/", "/rank", "/results", "/adjudicate", "/adjudicate/1", "/rankings.jsonl", "/static/rank.js", "/none")


def test_without_the_token_everything_is_refused(opened):
    client = TestClient(opened().app, base_url="http://page")
    for path in (*PATHS, "/?token=", "/?token=wrong", f"/?token={TOKENS['user']}x"):
        response = client.get(path)
        assert response.status_code == 403 and "address that was printed" in response.text, path
    for path in ("/name", "/rank", "/export", "/finish", "/adjudicate"):
        assert client.post(path, data={"name": "ann"}).status_code == 403
    assert not client.cookies


def test_a_token_becomes_a_cookie_and_leaves_the_address(opened):
    client = TestClient(opened().app, base_url="http://page", follow_redirects=False)
    response = client.get(f"/rank?token={TOKENS['user']}&x=1")
    assert response.status_code == 303 and response.headers["location"] == "/rank?x=1"
    assert (
        "httponly" in response.headers["set-cookie"].lower()
        and "samesite=lax" in response.headers["set-cookie"].lower()
    )
    assert client.get("/?token=%2f%2fevil.example").status_code == 403
    elsewhere = client.get(f"http://page//evil.example/x?token={TOKENS['user']}")
    assert elsewhere.headers["location"] == "/evil.example/x", "no other site"


def test_annotators_do_not_see_what_others_say(opened):
    page = opened()
    ann = page.browser("ann")
    for path in ("/results", "/adjudicate", "/adjudicate/1", "/rankings.jsonl"):
        assert ann.get(path).status_code == 403, path
    assert "/results" not in ann.get("/rank").text
    assert page.browser("lea", access.LEAD).get("/results").status_code == 200


def test_another_page_of_the_browser_cannot_send_a_form(opened):
    ann = opened().browser("ann")
    fields = {"item": 1, "do": "skip"}
    for headers in (
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://evil.example"},
        {"sec-fetch-site": "same-site"},
    ):
        assert ann.post("/rank", data=fields, headers=headers).status_code == 403
    for headers in ({"sec-fetch-site": "same-origin"}, {"origin": "http://page"}):
        assert ann.post("/rank", data=fields, headers=headers).status_code == 200


def test_what_is_written_in_answers_names_and_notes_is_text(tmp_path):
    item = Item(({"role": "user", "content": f"asked {EVIL}"},), (f"a{EVIL}", f"b{EVIL}"), {})
    page = Rank(tmp_path / "out", [item])
    lea, ann = page.browser(f"lea{EVIL}"[:60], access.LEAD), page.browser("ann")
    seen = [lea.get("/rank").text, lea.get("/?change=1").text]
    for client, ranks in ((lea, (1, 2)), (ann, (2, 1))):
        name = f"lea{EVIL}"[:60] if client is lea else "ann"
        places = page.desk.next(name).places
        fields = {f"rank-{number}": ranks[place] for number, place in enumerate(places, 1)}
        client.post("/rank", data={"item": 1, "again": 0, "do": "save", "note": f"n{EVIL}", **fields})
    assert len(page.store.judgements()) == 2
    seen += [lea.get(path).text for path in ("/results", "/adjudicate", "/adjudicate/1", "/before?item=0")]
    for text in seen:
        assert "<script>alert" not in text and "<img" not in text and str(71993 * 71999) not in text
    assert sum("&lt;script&gt;alert" in text for text in seen) == len(seen)
    headers = lea.get("/rank").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?! src=\"/static)|<[^>]*\s(on\w+|style)=", seen[0])


def test_tokens_come_from_the_environment_or_stay_what_they_were(monkeypatch):
    kept = {}
    first = access.tokens(kept, (access.USER, access.LEAD))
    assert access.tokens(kept, (access.USER, access.LEAD)) == first and len(set(first.values())) == 2
    monkeypatch.setenv("ICEGRT_PAGE_TOKEN", "a-token-of-my-own")
    assert access.tokens(kept)["user"] == "a-token-of-my-own"
    monkeypatch.setenv("ICEGRT_PAGE_LEAD_TOKEN", "a-token-of-my-own")
    with pytest.raises(UserError, match="are the same; give each its own"):
        access.tokens(kept, (access.USER, access.LEAD))
    monkeypatch.setenv("ICEGRT_PAGE_TOKEN", "short")
    with pytest.raises(UserError, match="ICEGRT_PAGE_TOKEN has 5 characters; expected 12 or more"):
        access.tokens({})


def test_a_port_that_is_taken_is_said():
    with web.listen("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
        assert web.address(opened, "a/b") == f"http://127.0.0.1:{port}/?token=a/b"
        with pytest.raises(UserError, match=f"--port={port}: cannot be listened at"):
            web.listen("127.0.0.1", port)


def test_a_form_that_is_too_long_or_no_form_is_refused(opened):
    ann = opened().browser("ann")
    assert ann.post("/rank", content=b"note=" + b"x" * 2**20).status_code == 413
    assert ann.post("/rank", content=b"note=%ff").status_code == 400
    for fields in ({"item": "9"}, {"item": "x"}, {"item": "1", "rank-1": "5", "rank-2": "1"}, {"item": 1, "rank-1": 1}):
        response = ann.post("/rank", data={"do": "save", **fields})
        assert response.status_code in (400, 404), fields
    assert ann.post("/name", data={"name": " \n "}).status_code == 400


def test_a_page_is_served_until_it_is_enough():
    asked = []
    opened = web.listen("127.0.0.1", 0)
    web.serve(web.static().app, opened, lambda: asked.append(1) or len(asked) == 2)
    assert len(asked) == 2 and opened.fileno() == -1
