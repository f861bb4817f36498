"""Measurements against peers and against the machine's limits: `python -m benchmarks --help`.

Nothing is imported here: workers of peers run in environments that have neither jax nor icegrt_jax.
"""
