"""A judge at an endpoint with OpenAI's chat completions: time limits, another try after a fault, so many at once.

The key comes from an environment variable and goes into the header of requests alone; where a server repeats it in what
it says, it is taken out before that is shown.
"""

import concurrent.futures
import importlib
import os
import random
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from icegrt_jax.config.options import JudgeModelOptions
from icegrt_jax.data.fields import Messages
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation.asked.panel import Unjudged

PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # of HTTP: worth another try
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds before another try; each wait is twice as long as the last
SHOWN = 200  # characters of what a server says
# What newer models of OpenAI refuse: (key of the request, a word of the refusal, the key in its place).
OTHER_KEYS = (("max_tokens", "max_completion_tokens", "max_completion_tokens"), ("temperature", "temperature", ""))


class Endpoint:
    """Asks one model at one URL.

    Args:
      section: where, with which limits; its `url` is not empty.
      wait: sleeps; stops early where nothing is to be asked any more.
    """

    def __init__(self, section: JudgeModelOptions, wait: Callable[[float], object] | None = None):
        try:
            self._requests: Any = importlib.import_module("requests")
        except ModuleNotFoundError as error:
            raise UserError(
                f'a judge at an endpoint needs {error.name}, which is not installed; pip install "icegrt_jax[judge]".'
            ) from error
        self._section, self._key = section, _key(section.key_env)
        self._url = f"{section.url.rstrip('/')}/chat/completions"
        self._body: dict[str, Any] = {"model": section.model, "temperature": 0, "max_tokens": section.max_tokens}
        self._own, self._stop = threading.local(), threading.Event()
        self._wait = wait or self._stop.wait
        self.identity: Mapping[str, Any] = {"url": self._url, **self._body}

    def ask_all(self, conversations: Sequence[Messages]) -> Generator[tuple[int, str | Unjudged], None, None]:
        """Replies as they come; the first that cannot be had at all is an error, and ends the others."""
        self._stop.clear()
        pool = concurrent.futures.ThreadPoolExecutor(self._section.at_once)
        try:
            asked = {pool.submit(self._ask, conversation): i for i, conversation in enumerate(conversations)}
            for done in concurrent.futures.as_completed(asked):
                yield asked[done], done.result()
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)

    def _ask(self, messages: Messages) -> str | Unjudged:
        """A reply, after so many tries as it takes and are allowed."""
        why = ""
        for tried in range(1 + self._section.retries):
            body = dict(self._body)
            try:
                response = self._post({**body, "messages": list(messages)})
            except (self._requests.Timeout, self._requests.ConnectionError) as error:
                kind = "timed out" if isinstance(error, self._requests.Timeout) else "cannot be reached"
                why, wait = f"{kind} ({self._shown(str(error))})", _back_off(tried)
            except self._requests.RequestException as error:
                raise self._error(f"cannot be asked ({self._shown(str(error))})") from error
            else:
                if 200 <= response.status_code < 300:
                    return self._read(response)
                said = f"answers {response.status_code}: {self._shown(response.text)}"
                if response.status_code == 400 and self._without(body, response.text):
                    return self._ask(messages)
                if response.status_code not in PASSING or "insufficient_quota" in response.text:
                    raise self._error(said + self._advice(response.status_code))
                why, wait = said, max(_back_off(tried), _asked_to_wait(response.headers.get("Retry-After", "")))
            if self._stop.is_set():
                break
            if tried < self._section.retries:
                self._wait(wait)
        limit = " Ask for fewer at_once." if "answers 429" in why else ""
        raise self._error(f"{why}, {1 + self._section.retries} times; what was answered is kept.{limit}")

    def _post(self, body: Mapping[str, Any]) -> Any:
        if not hasattr(self._own, "session"):
            self._own.session = self._requests.Session()  # one for each thread
        # `auth` as well where there is no key: else one from ~/.netrc would be sent.
        return self._own.session.post(
            self._url, json=body, auth=self._signed, timeout=self._section.timeout, allow_redirects=False
        )

    def _signed(self, request: Any) -> Any:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _read(self, response: Any) -> str | Unjudged:
        """The text of a completion."""
        try:
            choice = response.json()["choices"][0]
            message = choice["message"]
            content, refused = message.get("content"), message.get("refusal")
            end = choice.get("finish_reason")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            said = self._shown(response.text)
            raise self._error(f"answers {response.status_code} without a completion, {said!r}; see the url") from error
        if refused or end == "content_filter":
            return Unjudged(f"refused to judge ({self._shown(str(refused or 'content_filter'))})")
        if end == "length":
            return Unjudged(f"did not come to an end in max_tokens={self._section.max_tokens}; allow it more")
        return content if isinstance(content, str) else ""

    def _without(self, body: Mapping[str, Any], refusal: str) -> bool:
        """Whether a key of a request was refused that is left out, or called by its other name, from now on."""
        for key, word, other in OTHER_KEYS:
            if word in refusal and key in body:
                changed = {name: value for name, value in self._body.items() if name != key}
                self._body = {**changed, other: body[key]} if other else changed
                return True
        return False

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            given = f"the key in ${self._section.key_env}" if self._section.key_env else "no key: set key_env"
            return f" (asked with {given})"
        return " (see url and model)" if status in (301, 302, 307, 308, 404, 405) else ""

    def _shown(self, text: str) -> str:
        """What a server or a library says, on one line, without the key."""
        bare = text.replace(self._key, "***") if self._key else text
        return " ".join(bare.split())[:SHOWN]

    def _error(self, problem: str) -> UserError:
        return UserError(f"the judge {self._section.model} at {self._url} {problem}")


def _key(variable: str) -> str:
    """What an environment variable holds, "" where none is named."""
    key = os.environ.get(variable, "").strip() if variable else ""
    if variable and not key:
        raise UserError(f"key_env={variable}: this environment variable is not set; it holds the key of the endpoint.")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"key_env={variable}: what it holds is no key of an endpoint; expected one word.")
    return key


def _back_off(tried: int) -> float:
    return min(FIRST_WAIT * 2**tried, LONGEST_WAIT) * random.uniform(0.75, 1.25)


def _asked_to_wait(header: str) -> float:
    """Seconds that a server asks for, within reason; dates are passed over."""
    try:
        return min(max(float(header), 0.0), LONGEST_WAIT)
    except ValueError:
        return 0.0
