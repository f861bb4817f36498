"""Groups of TensorBoard: under which heading a metric stands there that has none in its own name."""

import re

# The first that fits; a name with a group of its own, such as heldout/loss, keeps that.
GROUPS = {
    "score": r"score|gold|rewards?$|return$|ensemble|group_",
    "kl": r"kl|approx_kl",
    "critic": r"value|explained_variance|advantage",
    "agreement": r"ratio|first_|logprob|sampler_",  # of sampler and trainer
    "answers": r"length|eos_rate|entropy|kept$|rollouts$|redrawn$",
}
OTHERS = "train"


def tag(name: str) -> str:
    """A metric's name in TensorBoard.

    >>> tag("score_raw"), tag("loss"), tag("heldout/loss")
    ('score/score_raw', 'train/loss', 'heldout/loss')
    """
    if "/" in name:
        return name
    return f"{next((group for group, names in GROUPS.items() if re.match(names, name)), OTHERS)}/{name}"
