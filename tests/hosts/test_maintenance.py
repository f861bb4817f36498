"""The notices of a TPU VM's metadata server, asked of one on this machine."""

import glob
import http.server
import importlib.util
import os
import signal
import threading
import time

import pytest

from icegrt_jax.hosts import launch, maintenance
from tests.stand_in import instead

QUIET = {"maintenance-event": "NONE", "preempted": "FALSE"}
PAUSE = 0.01


@pytest.fixture
def server(monkeypatch):
    """What a metadata server says, changed by the test: {name: value}, and the names that it was asked for."""
    said, asked = dict(QUIET), []

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/computeMetadata/v1/instance/")
            asked.append(name)
            right = self.headers["Metadata-Flavor"] == "Google" and name in said
            self.send_response(200 if right else 403)
            self.end_headers()
            self.wfile.write(said.get(name, "").encode() if right else b"")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{running.server_port}")
        monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
        yield said, asked
        running.shutdown()
        thread.join()


@pytest.fixture
def terms():
    """The SIGTERMs that this process gets."""
    heard = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: heard.append(signum))
    yield heard
    signal.signal(signal.SIGTERM, before)


def until(claim, seconds=5.0):
    end = time.monotonic() + seconds
    while not claim() and time.monotonic() < end:
        time.sleep(0.005)
    return claim()


@pytest.mark.parametrize("name, value", maintenance.NOTICES.items())
def test_a_notice_is_one_sigterm_and_a_sentence(server, terms, capfd, name, value):
    said, asked = server
    with maintenance.heard(on_tpu=True, pause=PAUSE):
        assert until(lambda: len(asked) > 4) and not terms, "nothing is announced"
        said[name] = value
        assert until(lambda: terms)
        looked = len(asked)
        time.sleep(0.05)
        assert len(terms) == 1 and len(asked) <= looked + 1
    expected = f"warning: this machine is to be taken away ({name} is {value}); stopping as on SIGTERM.\n"
    assert capfd.readouterr().err == expected


def test_what_was_announced_before_stops_nothing_and_what_is_no_end_neither(server, terms, capfd):
    said, asked = server
    said["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
    with maintenance.heard(on_tpu=True, pause=PAUSE):
        assert until(lambda: len(asked) > 4)
        said["maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"
        seen = len(asked)
        assert until(lambda: len(asked) > seen + 4)
    assert not terms
    assert "TERMINATE_ON_HOST_MAINTENANCE already" in capfd.readouterr().err


@pytest.mark.parametrize("on_tpu, skipped", [(False, ""), (True, "1")])
def test_nobody_is_asked_elsewhere(server, monkeypatch, on_tpu, skipped):
    _, asked = server
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", skipped)
    before = threading.active_count()
    with maintenance.heard(on_tpu=on_tpu, pause=PAUSE):
        assert threading.active_count() == before
    assert not asked


def test_a_machine_without_the_server_is_left_alone(monkeypatch, terms):
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")  # nobody listens there
    before = threading.active_count()
    with maintenance.heard(on_tpu=True, pause=PAUSE):
        assert until(lambda: threading.active_count() == before)
    assert not terms


def test_a_tpu_vm_is_known_by_its_devices_and_is_none_on_cpus_alone(monkeypatch):
    util = instead(importlib.util, find_spec=lambda name: object())
    monkeypatch.setattr(launch, "importlib", instead(importlib, util=util))
    found = instead(glob, glob=lambda pattern: ["/dev/accel0"] if "accel" in pattern else [])
    monkeypatch.setattr(launch, "glob", found)
    assert launch.on_tpu({}) and not launch.on_tpu({"JAX_PLATFORMS": "cpu"})
    monkeypatch.setattr(launch, "glob", instead(glob, glob=lambda pattern: []))
    assert not launch.on_tpu({})
    assert os.environ["JAX_PLATFORMS"] == "cpu"
