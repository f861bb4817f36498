"""A module as one other module sees it.

`monkeypatch.setattr(lock.time, "sleep", ...)` is the whole process's `time.sleep`: a thread that an earlier test has
left behind, such as the one that watches the heap, then calls the replacement too.
"""

import types


def instead(module: types.ModuleType, **functions) -> types.SimpleNamespace:
    """`module` with other `functions`, to stand under its name in the module under test and nowhere else."""
    return types.SimpleNamespace(**(vars(module) | functions))
