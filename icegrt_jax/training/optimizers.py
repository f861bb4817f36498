"""AdamW with warm-up, a schedule and gradient clipping, from a hashable description."""

import dataclasses
from typing import get_args

import jax
import optax

from icegrt_jax.config.choices import Schedule, check_choice
from icegrt_jax.config.options import OptimizerOptions

DECAYED = ("kernel", "embedding", "lora_a", "lora_b")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig(OptimizerOptions):
    """One role's optimizer. Hashable.

    Attributes: those of `OptimizerOptions`, where each is explained, and
      total_steps: optimizer updates of the whole stage, warm-up included and those that are skipped.
    """

    total_steps: int

    def __post_init__(self):
        check_choice("schedule", self.schedule, get_args(Schedule))


def learning_rate(config: OptimizerConfig) -> optax.Schedule:
    """Learning rate as a function of the number of updates made."""
    after = max(config.total_steps - config.warmup_steps, 1)
    end = config.lr * config.final_lr_fraction
    main = {
        "constant": lambda: optax.constant_schedule(config.lr),
        "linear": lambda: optax.linear_schedule(config.lr, end, after),
        "cosine": lambda: optax.cosine_decay_schedule(config.lr, after, config.final_lr_fraction),
    }[config.schedule]()
    if not config.warmup_steps:
        return main
    # Starts one step in: an update with a learning rate of exactly 0 would be wasted.
    warmup = optax.linear_schedule(config.lr / config.warmup_steps, config.lr, config.warmup_steps - 1 or 1)
    return optax.join_schedules([warmup, main], [config.warmup_steps])


def skip_update(opt_state):
    """The optimizer's state with its schedule one update on, and nothing else: a skipped update has its place in it."""
    is_schedule = lambda node: isinstance(node, optax.ScaleByScheduleState)
    on = lambda node: node._replace(count=node.count + 1) if is_schedule(node) else node
    return jax.tree.map(on, opt_state, is_leaf=is_schedule)


def _decayed(params):
    """True at kernels, embeddings and adapters, False at norms and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in DECAYED, params)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The optax transformation that `config` describes."""
    adamw = optax.adamw(
        learning_rate(config),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=_decayed,
    )
    if not config.max_grad_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adamw)
