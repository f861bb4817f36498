"""`icegrt` and `python -m icegrt_jax`: the process of a command, which hears signals from its first line on."""

import sys

from icegrt_jax.hosts import signals  # imports nothing that takes long


def main() -> int:
    """Runs the command of `sys.argv`."""
    signals.of_program()
    from icegrt_jax.cli import main as run

    try:
        return run()
    finally:
        signals.finished()


if __name__ == "__main__":
    sys.exit(main())
