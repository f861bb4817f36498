"""Alarms of a PPO run, by its metrics: what is measured, against which bound, the likely cause and what to change."""

from icegrt_jax.training.alarms.history import Given
from icegrt_jax.training.alarms.measures import COLUMNS, REWARD_CHECK
from icegrt_jax.training.alarms.watch import Event, Watch, events, merged

__all__ = ["COLUMNS", "REWARD_CHECK", "Event", "Given", "Watch", "events", "merged"]
