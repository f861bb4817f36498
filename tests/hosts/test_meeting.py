"""Where processes meet: values are exchanged, and whoever is missing is named."""

import os
import threading
import time

import pytest

from icegrt_jax.hosts import heartbeat, rendezvous
from icegrt_jax.hosts.heartbeat import Pulse
from icegrt_jax.hosts.rendezvous import HostError
from tests.hosts.meetings import meetings, on_hosts
from tests.stand_in import instead


def test_every_process_gets_what_all_have_brought_in_their_order(tmp_path):
    def talk(meeting):
        return [meeting.exchange("numbers", [meeting.index, turn]) for turn in range(5)]

    assert on_hosts(tmp_path, 3, talk) == [[[[i, turn] for i in range(3)] for turn in range(5)]] * 3
    assert len(list((tmp_path / "meeting").iterdir())) <= 3 * 3, "old values are cleared away"


@pytest.mark.parametrize("late", ["a new name", "new content"])
def test_a_folder_that_shows_one_kind_of_news_late_is_enough(tmp_path, monkeypatch, late):
    if late == "a new name":  # NFS
        monkeypatch.setattr(rendezvous, "os", instead(os, listdir=lambda folder: []))
    else:  # a mounted bucket
        monkeypatch.setattr(rendezvous.Meeting, "_heard", lambda self, index: {})

    def talk(meeting):
        numbers = meeting.exchange("numbers", meeting.index)
        if meeting.index:
            meeting.leave("enough")
            return numbers
        with pytest.raises(HostError, match="process 1 .* stopped: enough"):
            meeting.exchange("more")
        return numbers

    assert on_hosts(tmp_path, 2, talk) == [[0, 1], [0, 1]]


def test_nobody_passes_a_barrier_before_the_last_has_come(tmp_path):
    arrived = []

    def walk(meeting):
        time.sleep(0.1 * meeting.index)
        arrived.append(meeting.index)
        meeting.exchange("the gate")
        return len(arrived)

    assert on_hosts(tmp_path, 3, walk) == [3, 3, 3]


def test_the_missing_are_named_when_the_time_is_over(tmp_path):
    first, *_ = meetings(tmp_path, 3, timeout=0.1)
    with pytest.raises(HostError, match=r"process 1 \(host-1\), process 2 \(host-2\) have not come to 'the gate'"):
        first.exchange("the gate")


def test_a_process_that_stopped_is_not_waited_for_and_its_reason_is_told(tmp_path):
    first, second = meetings(tmp_path, 2, timeout=3600)
    second.leave("reward: no records in it.")
    with pytest.raises(HostError, match=r"process 1 \(host-1\) stopped: reward: no records in it."):
        first.exchange("the gate")


def test_a_file_that_never_shows_up_says_that_the_folder_is_not_shared(tmp_path):
    first, _ = meetings(tmp_path, 2, timeout=0.05)
    with pytest.raises(HostError, match="does not see .*done.json; the workdir must be a folder that all hosts share"):
        first.wait_for(tmp_path / "done.json")


def test_silence_is_noticed_and_life_is_not_taken_for_it(tmp_path):
    lost, quiet = threading.Event(), []
    pulses = [Pulse(tmp_path, i, 3, 1.0, lambda silent: (quiet.append(silent), lost.set())) for i in range(2)]
    pulses[0].start(), pulses[1].start()  # the third never comes
    assert lost.wait(20)
    for each in pulses:
        each.stop()
    assert all(silent == [2] for silent in quiet)


def test_who_is_silent_from_now_on_is_found_without_waiting_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.1)
    pulses = [Pulse(tmp_path, i, 3, 100.0, lambda silent: None).start() for i in range(3)]
    assert pulses[0].silent_from_now() == []
    pulses[2].stop()
    pulses[0].silent_from_now()  # its last beat may come in between
    assert pulses[0].silent_from_now() == [2]
    for each in pulses:
        each.stop()


def test_those_inside_a_program_hear_of_one_that_stopped_with_its_reason(tmp_path):
    said, heard = [], threading.Event()
    first, second = meetings(tmp_path, 2)
    watching = first.watch(1.0, lambda sentence: (said.append(sentence), heard.set()))
    second.leave("out of memory")
    assert heard.wait(60)
    watching.stop()
    assert said == ["process 1 (host-1) stopped: out of memory"]


def test_the_folder_stays_until_all_have_left(tmp_path):
    first, second = meetings(tmp_path, 2)
    first.leave()
    leaving = []
    threading.Timer(0.3, lambda: (leaving.append("second"), second.leave())).start()
    first.wait_until_left(3600)
    assert leaving == ["second"]
    with pytest.raises(HostError, match="process 1 .* has not come"):  # who has left as it should is no error by itself
        first.exchange("more", timeout=0.1)
