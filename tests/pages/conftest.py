"""Records to be ranked, and the ranking page in this process."""

import pathlib

import pytest

starlette = pytest.importorskip("starlette", reason="needs the extra rank")

from starlette.testclient import TestClient  # noqa: E402

from icegrt_jax.pages import access  # noqa: E402
from icegrt_jax.pages.rank import app, desk, items  # noqa: E402
from icegrt_jax.pages.rank.store import Store  # noqa: E402
from tests.pages.records import write_records  # noqa: E402

TOKENS = {access.USER: "annotators-token", access.LEAD: "leaders-token-1"}


class Rank:
    """A ranking page: its store, and browsers of people."""

    def __init__(self, folder: pathlib.Path, found, **rules):
        self.folder, self.store = folder, Store(folder, new=True)
        self.store.add(found)
        self.desk = desk.Desk(self.store, self.store.keys_of_items(), **{"seed": 0, "every": 0, "votes": 0, **rules})
        self.pages = app.Pages(self.desk, app.Settings(folder, "be fair"))
        self.app = self.pages.app(TOKENS)

    def browser(self, name: str = "", role: str = access.USER) -> TestClient:
        """Of somebody who has opened the address with their token, and has given a name."""
        client = TestClient(self.app, base_url="http://page")
        assert client.get(f"/?token={TOKENS[role]}").status_code == 200
        if name:
            assert client.post("/name", data={"name": name}).status_code == 200
        return client

    def rank(self, client: TestClient, name: str, ranks: dict[str, int] | None, **more) -> int:
        """Ranks what they are shown next, by the beginnings of the answers; returns the number of the prompt."""
        shown = self.desk.next(name)
        fields = {"item": shown.number, "again": int(shown.again), "opened": desk.tick(), **more}
        texts = [answer["text"] for answer in shown.answers()]
        for number, text in enumerate(texts, 1):
            rank = (ranks or {}).get(text.split(" to ")[0])
            fields |= {f"rank-{number}": rank} if rank else {}
        fields["do"] = "save" if ranks else "skip"
        response = client.post("/rank", data=fields)
        assert response.status_code == 200, response.text
        return shown.number


@pytest.fixture
def opened(tmp_path):
    """Makes ranking pages."""

    def make(count: int = 3, answers: int = 4, **rules) -> Rank:
        path = write_records(tmp_path / "to_rank.jsonl", count, answers)
        return Rank(tmp_path / "out", items.read(str(path)).items, **rules)

    return make
