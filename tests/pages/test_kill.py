"""Two annotators at once and a kill of the server in the middle; the script does it many times."""

import os

import pytest

from tests.pages import kills


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_two_annotators_and_a_kill_lose_nothing_and_double_nothing(tmp_path):
    # One prompt in ten is shown to each again.
    assert kills.lose_nothing(tmp_path, kills=1, records=40) == 2 * (40 + 4)
