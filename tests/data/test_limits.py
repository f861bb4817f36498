"""Templates that loop for ever or fill the memory end with a sentence, and others never notice."""

import functools
import threading

import pytest

from icegrt_jax.data import limits, template
from icegrt_jax.data.tokenizers import wrap
from icegrt_jax.errors import UserError
from tests.data.templates import CHATML, make

TURNS = [{"role": "user", "content": "7?"}, {"role": "assistant", "content": "Yes."}]
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLE = "{% set ns = namespace(a='aaaaaaaa') %}{% for i in range(40) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}"


@pytest.mark.parametrize("hostile, seconds, most", [(LOOP, 0.3, 2**40), (DOUBLE, 600.0, 2**26)], ids=["time", "memory"])
def test_a_template_that_takes_too_much_is_a_sentence(hostile, seconds, most, monkeypatch):
    monkeypatch.setattr(limits, "limited", functools.partial(limits.limited, seconds, most))
    with pytest.raises(UserError, match="the chat template takes more than 10 seconds or 1,024 MiB"):
        template.render(make("chatml", template=CHATML + hostile), TURNS, generate=False)


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
