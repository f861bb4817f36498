"""Published figures of the chips: what a roofline is made of."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip.

    Attributes:
      name: as a topology names it.
      flops: peak bfloat16 FLOP/s.
      hbm: bytes of memory that a program may use: what the compiler allows, a little less than what is published.
      hbm_bandwidth: bytes/s.
      ici_bandwidth: bytes/s that a ring over one axis of the mesh sends: two links, one in each direction.
      dcn_bandwidth: bytes/s between slices, a chip's share.
      sources: where the figures are published.
    """

    name: str
    flops: float
    hbm: float
    hbm_bandwidth: float
    ici_bandwidth: float
    dcn_bandwidth: float
    sources: tuple[str, ...]


# Links: published is what all of a chip's ports send and receive together. A v5e or v6e chip has 4 ports, a v4 or v5p
# chip 6; a ring uses 2 of them. DCN: of a pod, by its number of chips. Compiler's limits: libtpu 0.0.42.
CHIPS = {
    # 6 links of 50 GB/s: Jouppi et al. 2023, table 4. Data center network: not published, taken as v5p's.
    "v4": Chip("v4", 275e12, 30.75 * GIB, 1200e9, 2 * 50e9, 6.25e9,
        ("https://docs.cloud.google.com/tpu/docs/v4", "https://arxiv.org/abs/2304.01433")),
    # 400 GB/s both ways over 4 ports. 6.4 Tbit/s a pod of 256.
    "v5e": Chip("v5e", 197e12, 15.75 * GIB, 819e9, 2 * 50e9, 3.125e9, ("https://docs.cloud.google.com/tpu/docs/v5e",)),
    # 1200 GB/s both ways over 6 ports. 50 Gbit/s a chip.
    "v5p": Chip("v5p", 459e12, 95.74 * GIB, 2765e9, 2 * 100e9, 6.25e9,
        ("https://docs.cloud.google.com/tpu/docs/v5p-training",)),
    # 3200 Gbit/s each way over 4 ports. 25.6 Tbit/s a pod of 256.
    "v6e": Chip("v6e", 918e12, 31.25 * GIB, 1600e9, 2 * 100e9, 12.5e9, ("https://docs.cloud.google.com/tpu/docs/v6e",)),
}  # fmt: skip
