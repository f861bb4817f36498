"""Where compiled programs are kept from one process to the next."""

import os
import pathlib

import jax


def keep_programs(folder: str | pathlib.Path) -> None:
    """Keeps what is compiled from here on in the folder; the user's own, $JAX_COMPILATION_CACHE_DIR, goes before it.

    Without XLA's own caches beside JAX's, unless the environment asks for them: their path becomes part of what a
    program is known by, so that a folder that is moved, copied or reached by a link holds nothing that is found, and
    one in a bucket ends the first program on a GPU, as XLA has no files there.
    """
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(folder))
    if "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES" not in os.environ:
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def keep_none() -> None:
    """Keeps nothing of what is compiled from here on."""
    jax.config.update("jax_compilation_cache_dir", None)
