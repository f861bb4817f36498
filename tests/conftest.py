"""Every test sees eight simulated CPU devices, whatever the machine."""

import os

# Read when JAX first starts, hence before its import; subprocesses of tests inherit both.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

import jax

# [B] meeting [B, T] without a new axis is nearly always a mistake.
jax.config.update("jax_numpy_rank_promotion", "raise")
