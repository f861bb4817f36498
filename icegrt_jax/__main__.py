"""`python -m icegrt_jax` is `icegrt`."""

import sys

from icegrt_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
