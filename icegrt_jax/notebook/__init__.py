"""What the notebooks show: curves that grow while a training goes on, answers side by side, tokens in colours.

    from icegrt_jax import notebook as nb
    for step, metrics, rollout in nb.watch(training, "score_raw", "kl"):
        ...

`watch` needs IPython, which every notebook has; all that is shown can be printed as well.
"""

from icegrt_jax.notebook.answers import Table, answers, graded, ranked, ranked_by, to_rank
from icegrt_jax.notebook.curves import Picture, calibration, curves, finish, watch
from icegrt_jax.notebook.tokens import Tokens, score_by_token

__all__ = [
    "Picture", "Table", "Tokens", "answers", "calibration", "curves", "finish", "graded", "ranked", "ranked_by",
    "score_by_token", "to_rank", "watch",
]  # fmt: skip
