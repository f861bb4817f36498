"""By which number the best checkpoint of a stage is kept: its name, and whether more of it is better."""

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
