"""The server of `icegrt rank`, killed again and again while two people save: nothing is lost, nothing is there twice.

python -m tests.pages.kills --kills=25 --records=400
"""

import argparse
import collections
import contextlib
import http.client
import http.cookiejar
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request

from icegrt_jax.pages.rank.store import Store
from tests.pages.records import write_records

TOKEN = "token-of-this-test"
NAMES = ("ann", "bob")


@contextlib.contextmanager
def server(records: pathlib.Path, out: pathlib.Path):
    """A server in a process of its own, and where it is; it ends with the block."""
    command = [sys.executable, "-m", "icegrt_jax", "rank", f"--records={records}", f"--out={out}", "--port=0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "ICEGRT_PAGE_TOKEN": TOKEN},
    ) as process:  # fmt: skip
        try:
            line = next((line for line in process.stdout if "annotators open" in line), "")
            assert line, process.stderr.read()
            yield process, re.search(r"http://\S+?/", line)[0]
        finally:
            process.kill()


class Annotator(threading.Thread):
    """Ranks what they are shown until nothing is left or the server is gone.

    Args:
      saved: gets (name, prompt, again) of what the server has confirmed.
      after: called after each with how many there are.
    """

    def __init__(self, name: str, url: str, saved: list, after):
        super().__init__()
        self.name, self.url, self.saved, self.after = name, url, saved, after
        self.browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def get(self, path: str, **fields) -> str:
        data = urllib.parse.urlencode(fields).encode() if fields else None
        with self.browser.open(self.url + path, data, timeout=20) as response:
            return response.read().decode()

    def run(self) -> None:
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


def rank(url: str, saved: list, after=lambda count: None) -> None:
    """Both rank, at once."""
    people = [Annotator(name, url, saved, after) for name in NAMES]
    for person in people:
        person.start()
    for person in people:
        person.join()


def lose_nothing(folder: pathlib.Path, *, kills: int, records: int, seed: int = 0) -> int:
    """Kills the server so often, and lets both go on to the end; returns how many judgements were saved.

    They rank twice as many prompts as there are records, and are interrupted at moments drawn by the seed.
    """
    path, out, saved = write_records(folder / "records.jsonl", records), folder / "out", []
    draw = random.Random(seed)
    moments = sorted(draw.sample(range(10, 2 * records - 10), kills))
    for moment in moments:
        with server(path, out) as (process, url):
            kill = lambda count, at=moment, process=process: count >= at and process.send_signal(signal.SIGKILL)
            rank(url, saved, kill)
            assert process.wait(20) == -signal.SIGKILL, "it has ended before"
    with server(path, out) as (process, url):
        rank(url, saved)
        process.terminate()
        said = process.communicate()[1]
        assert process.returncode == 143 and "what was saved is kept; run the same command to continue" in said
    store = Store(out, new=False)
    said = store.judgements()
    store.close()
    kept = collections.Counter((one.annotator, one.item, int(one.again)) for one in said)
    assert len(saved) == len(set(saved)), "nobody was asked for the same twice"
    assert set(kept) >= set(saved) and set(kept.values()) == {1}
    assert len(set(kept) - set(saved)) <= len(NAMES) * kills, "a save that was not confirmed, of each at each kill"
    assert all(kept[name, item, 0] for name in NAMES for item in range(1, records + 1))
    assert all(one.note == str(one.item) and sorted(one.ranks) == [1, 2, 3, 4] for one in said)
    return len(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--records", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        count = lose_nothing(pathlib.Path(folder), kills=args.kills, records=args.records, seed=args.seed)
    print(f"{args.kills} kills, {count} judgements by {len(NAMES)} people: none lost, none twice")


if __name__ == "__main__":
    main()
