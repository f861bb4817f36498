"""Templates that loop for ever or fill the memory end with a sentence, and others never notice."""

import functools
import pathlib
import subprocess
import sys
import threading

import pytest

from icegrt_jax.data import limits, template
from icegrt_jax.data.tokenizers import wrap
from icegrt_jax.errors import UserError
from tests.data.templates import CHATML, make

ROOT = pathlib.Path(__file__).parent.parent.parent
TURNS = [{"role": "user", "content": "7?"}, {"role": "assistant", "content": "Yes."}]
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLE = "{% set ns = namespace(a='aaaaaaaa') %}{% for i in range(40) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}"


SENTENCE = "the chat template takes more than 10 seconds or 1,024 MiB"
MEMORY = f"""
import functools, resource
from icegrt_jax.data import limits, template
from icegrt_jax.errors import UserError
from tests.data.templates import CHATML, make
limits.limited = functools.partial(limits.limited, 600.0, 2**26)
tokenizer = make("chatml", template=CHATML + {DOUBLE!r})
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
before = peak()
try:
    template.render(tokenizer, {TURNS!r}, generate=False)
except UserError as error:
    print((peak() - before) // 2**10, error)
"""


def test_a_template_that_never_ends_is_a_sentence(monkeypatch):
    monkeypatch.setattr(limits, "limited", functools.partial(limits.limited, 0.3, 2**40))
    with pytest.raises(UserError, match=SENTENCE):
        template.render(make("chatml", template=CHATML + LOOP), TURNS, generate=False)


def test_a_template_that_doubles_a_text_is_stopped_near_its_limit():
    # In a process of its own: one that is not stopped takes all memory there is.
    process = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, cwd=ROOT)
    grown, _, said = process.stdout.partition(" ")
    assert said.startswith(SENTENCE), process.stderr
    assert int(grown) < 200, "MiB where 64 are allowed; thousands when each look read a file"


@pytest.mark.parametrize("large", [
    "{{ 'a' * 10000000000 }}", "{{ 'a' * 9 ** 99 }}", "{{ '%9999999d' % 7 }}", "{{ '{:>9999999}'.format(7) }}",
    "{{ 'a'.ljust(1_000_000_000) }}",
])  # fmt: skip
def test_a_step_that_may_ask_for_any_amount_is_refused_before_it_is_done(large):
    with pytest.raises(UserError, match="longer than any memory"):
        wrap(make("chatml", template=CHATML + large))


def test_who_was_stopped_goes_on_and_so_do_others():
    said = []

    def endless():
        try:
            with limits.limited(0.1):
                while True:
                    pass
        except limits.Exceeded:
            said.append("stopped")

    threads = [threading.Thread(target=endless) for _ in range(2)]
    for thread in threads:
        thread.start()
    with limits.limited(60.0):
        for thread in threads:
            thread.join()
    assert said == ["stopped"] * 2
    with limits.limited(60.0):
        assert sum(range(1000)) == 499500
