"""A real server with two annotators at once, killed in the middle: no judgement is lost, and none is there twice."""

import collections
import http.client
import http.cookiejar
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request

import pytest

from icegrt_jax.pages.rank.store import Store
from tests.pages.conftest import write_records

TOKEN = "token-of-this-test"


@pytest.fixture
def servers():
    """Those that were started; they end with the test."""
    started = []
    yield started
    for server in started:
        server.kill()
        server.wait()
        for pipe in (server.stdout, server.stderr):
            pipe.close()


def start(servers, records, out) -> tuple[subprocess.Popen, str]:
    """A server, and where it is."""
    command = [sys.executable, "-m", "icegrt_jax", "rank", f"--records={records}", f"--out={out}", "--port=0"]
    server = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ICEGRT_PAGE_TOKEN": TOKEN},
    )
    servers.append(server)
    for line in server.stdout:
        if "annotators open" in line:
            return server, re.search(r"http://\S+?/", line)[0]
    raise AssertionError(server.stderr.read())


class Annotator(threading.Thread):
    """Ranks what they are shown until nothing is left or the server is gone; `saved`: prompts that it has confirmed."""

    def __init__(self, name: str, url: str, saved: list, after=lambda count: None):
        super().__init__()
        self.name, self.url, self.saved, self.after = name, url, saved, after
        self.browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def get(self, path: str, **fields) -> str:
        data = urllib.parse.urlencode(fields).encode() if fields else None
        with self.browser.open(self.url + path, data, timeout=20) as response:
            return response.read().decode()

    def run(self):
        try:
            self.get(f"?token={TOKEN}")
            text = self.get("name", name=self.name)
            while item := re.search(r'name="item" value="(\d+)"', text):
                again = re.search(r'name="again" value="(\d)"', text)[1]
                fields = {f"rank-{n}": n for n in range(1, 5)}
                text = self.get("rank", item=item[1], again=again, do="save", note=item[1], **fields)
                self.saved.append((self.name, int(item[1]), int(again)))
                self.after(len(self.saved))
        except (OSError, http.client.HTTPException):
            pass  # the server is gone; what it has not confirmed may be saved or not


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_two_annotators_and_a_kill_lose_nothing_and_double_nothing(servers, tmp_path):
    records, out, saved = write_records(tmp_path / "r.jsonl", 40), tmp_path / "out", []
    server, url = start(servers, records, out)
    kill = lambda count: count == 30 and server.send_signal(signal.SIGKILL)
    people = [Annotator(name, url, saved, kill) for name in ("ann", "bob")]
    [person.start() for person in people]
    [person.join() for person in people]
    assert 30 <= len(saved) < 70 and server.wait(20) == -signal.SIGKILL
    server, url = start(servers, records, out)
    try:
        before = len(saved)
        people = [Annotator(name, url, saved) for name in ("ann", "bob")]
        [person.start() for person in people]
        [person.join() for person in people]
        assert len(saved) > before
    finally:
        server.terminate()
        _, said = server.communicate()
    assert server.returncode == 143 and "what was saved is kept; run the same command to continue" in said
    store = Store(out, new=False)
    kept = collections.Counter((one.annotator, one.item, int(one.again)) for one in store.judgements())
    assert set(kept) >= set(saved) and set(kept.values()) == {1}
    assert len(set(kept) - set(saved)) <= 2, "a save that was not confirmed, of each of the two"
    assert all(kept[name, item, 0] for name in ("ann", "bob") for item in range(1, 41))
    assert all(one.note == str(one.item) and sorted(one.ranks) == [1, 2, 3, 4] for one in store.judgements())
    assert sum(again for _, _, again in kept) == 2 * 4
