"""The options of a run: their defaults, config files, and what has to fit together."""

from icegrt_jax.config.checks import check, check_options, doubts
from icegrt_jax.config.convert import default_config, read

__all__ = ["check", "check_options", "default_config", "doubts", "read"]
