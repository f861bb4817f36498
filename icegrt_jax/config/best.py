"""By which number the best checkpoint of a stage is kept: its name, and whether more of it is better."""

from icegrt_jax.config.options import PPOOptions
from icegrt_jax.errors import UserError

LESS_IS_BETTER = ("loss", "error", "perplexity")
MORE_IS_BETTER = ("accuracy", "gold", "prob", "score")
GROUP = "heldout/"  # of all numbers that are measured on held-out data


def metric_of(key: str, text: str) -> tuple[str, int]:
    """The number's name, and 1 where more is better or -1 where less is.

    Args:
      key: of the config, for errors.
      text: its name, with `:max` or `:min` behind it where the name does not tell.
    """
    name, _, direction = text.partition(":")
    if not name.startswith(GROUP) or name == GROUP:
        raise UserError(f"{key}={text!r}; expected a number measured on held-out data, such as {GROUP}loss.")
    if direction:
        if direction not in ("max", "min"):
            raise UserError(f"{key}={text!r}; expected {name}:max or {name}:min.")
        return name, 1 if direction == "max" else -1
    words = name.rpartition("/")[2].split("_")
    if any(word in LESS_IS_BETTER for word in words):
        return name, -1
    if any(word in MORE_IS_BETTER for word in words):
        return name, 1
    raise UserError(f"{key}={text!r}: its name does not tell whether more is better; write {name}:max or {name}:min.")


def metrics_of(key: str, text: str) -> list[tuple[str, int]]:
    """Several numbers with a + between them, as `metric_of` gives each."""
    return [metric_of(key, name) for name in text.split("+")]


def check_average(ppo: PPOOptions) -> None:
    """Refuses an average of policies that could not be made or chosen."""
    metrics_of("ppo.average_by", ppo.average_by)
    if not ppo.average:
        return
    if len(set(ppo.average)) < len(ppo.average):
        raise UserError(
            f"ppo.average={ppo.average}; expected different points from 0 (ICE-Instruct) to 1 (ICE-GRT), such as "
            "(0.5, 0.75, 1.0)."
        )
    if not ppo.heldout or not ppo.judge:
        missing = "ppo.judge" if ppo.heldout else "ppo.heldout"
        raise UserError(f"ppo.average={ppo.average}: the points are measured on held-out prompts; set {missing}.")
