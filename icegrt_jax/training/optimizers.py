"""AdamW with warm-up, a schedule and gradient clipping, from a hashable description."""

import dataclasses

import jax
import optax

from icegrt_jax.config.options import SCHEDULES
from icegrt_jax.errors import UserError

DECAYED = ("kernel", "embedding", "lora_a", "lora_b")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """One role's optimizer.

    Attributes:
      lr: peak learning rate.
      warmup_steps: linear from 0 to `lr`.
      schedule: afterwards "constant", or "linear" or "cosine" down to final_lr_fraction * lr.
      final_lr_fraction: where the schedule ends.
      total_steps: optimizer updates of the whole stage, warm-up included and those that are skipped.
      b1, b2, eps: Adam's.
      weight_decay: decoupled, on kernels, embeddings and adapters only.
      max_grad_norm: gradients are scaled down to this global norm; 0 for no limit.
    """

    lr: float
    total_steps: int
    warmup_steps: int = 0
    schedule: str = "constant"
    final_lr_fraction: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise UserError(f"schedule={self.schedule!r}; expected one of {', '.join(SCHEDULES)}.")


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
