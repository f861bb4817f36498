"""An endpoint on this machine that says what a test has it say."""

import contextlib
import http.server
import json
import os
import re
import threading
import time
from dataclasses import dataclass, field
from unittest import mock

from icegrt_jax.evaluation.asked.wording import CRITERIA


@dataclass
class Said:
    """An answer of the server: a text as a completion, or whatever stands in `body`."""

    content: str | None = ""
    status: int = 200
    headers: dict = field(default_factory=dict)
    body: str | None = None
    delay: float = 0.0
    finish: str = "stop"
    refusal: str | None = None

    def to_body(self) -> bytes:
        message = {"role": "assistant", "content": self.content, "refusal": self.refusal}
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        return (json.dumps({"choices": [choice]}) if self.body is None else self.body).encode()


class Server:
    """reply: of the parsed request and how often it was asked before. requests: (headers, body) of each so far."""

    def __init__(self, reply):
        self.reply, self.requests, self.most_at_once, self._now, self._lock = reply, [], 0, 0, threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer._now += 1
                    outer.most_at_once = max(outer.most_at_once, outer._now)
                    number = len(outer.requests)
                    outer.requests.append((self.path, dict(self.headers), body))
                said = outer.reply(body, number)
                time.sleep(said.delay)
                with outer._lock:
                    outer._now -= 1
                content = said.to_body()
                with contextlib.suppress(ConnectionError):  # who asked may be gone
                    self.send_response(said.status)
                    for name, value in said.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    @property
    def asked(self) -> list[str]:
        """The last message of each request."""
        return [body["messages"][-1]["content"] for _, _, body in self.requests]


@contextlib.contextmanager
def serving(reply):
    server = Server(reply)
    try:
        with mock.patch.dict(os.environ, dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1")):
            yield server
    finally:
        server.close()


def number_of(body: dict) -> str:
    """The number that a verdict on a request must carry."""
    return re.findall(r'"id": "(\w+)"', body["messages"][0]["content"])[-1]


def scored(body: dict, score: int = 4, **other) -> str:
    return json.dumps({"id": number_of(body), **dict.fromkeys(CRITERIA, score), **other})


def part(body: dict, name: str) -> str:
    """What a request shows under a name, such as "answer 1"."""
    text = body["messages"][0]["content"]
    return re.search(rf"\[begin {name} (\w+)\]\n(.*?)\n\[end {name} \1\]", text, re.DOTALL)[2]


def better(body: dict, verdict: str) -> str:
    return json.dumps({"id": number_of(body), "better": verdict})
