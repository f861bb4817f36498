"""What a program is being compiled for, which need not be where it is compiled."""

import jax


def target_platform() -> str:
    """ "cpu", "gpu" or "tpu": of the mesh that a program is traced under, by default of this machine."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
