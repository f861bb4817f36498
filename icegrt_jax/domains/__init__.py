"""Domains: what makes or finds the records of a run, ranks its answers and grades them.

`base.Domain` says what one is, `load` opens one by its name in a config: a folder here, which holds `domain.DOMAIN`,
or the user's own class.
"""

from icegrt_jax.domains.base import Domain
from icegrt_jax.domains.checked import CheckedDomain, load

__all__ = ["CheckedDomain", "Domain", "load"]
