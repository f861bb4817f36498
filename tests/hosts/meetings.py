"""Processes that meet, played by threads."""

import concurrent.futures

from icegrt_jax.hosts.rendezvous import Meeting


def meetings(folder, count, timeout=20.0):
    """One for each of so many processes."""
    made = [Meeting(folder / "meeting", i, count, timeout) for i in range(count)]
    for meeting in made:
        meeting.introduce([f"host-{i}" for i in range(count)])
    return made


def on_hosts(folder, count, call):
    """What `call(meeting)` gives in each of `count` processes."""
    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        return list(threads.map(call, meetings(folder, count)))
