"""Where compiled programs are kept from one process to the next."""

import os
import pathlib

import jax


def keep_programs(folder: str | pathlib.Path | None) -> None:
    """Keeps what is compiled from here on in the folder; the user's own, $JAX_COMPILATION_CACHE_DIR, goes before it.

    None: nothing is kept. XLA has no cache of its own beside JAX's, unless the environment asks for one: its path
    becomes part of what a program is known by, so that in a folder that was moved, copied or is reached by a link
    nothing would be found.
    """
    kept = None if folder is None else os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(folder)
    jax.config.update("jax_compilation_cache_dir", kept)
    if "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES" not in os.environ:
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
