"""The options of a run: their defaults, config files, and what has to fit together."""

from icegrt_jax.config.checks import check, doubts
from icegrt_jax.config.convert import default_config, read

__all__ = ["check", "default_config", "doubts", "read"]
