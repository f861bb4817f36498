"""Counts what is compiled: a program compiled again and again is the usual reason for a slow run."""

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"
_FROM_CACHE = "/jax/compilation_cache/cache_hits"


class Compiles:
    """Programs made ready since it was made, and the seconds that took; `close` ends the counting.

    Attributes:
      programs: compiled or read from the persistent cache, small ones between the steps included.
      from_cache: of them, read from the cache.
      seconds: spent on both.
    """

    def __init__(self):
        self.programs, self.from_cache, self.seconds = 0, 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)

    def summary(self) -> dict[str, float]:
        return {"programs": self.programs, "from_cache": self.from_cache, "seconds": round(self.seconds, 3)}

    def __str__(self) -> str:
        return f"{self.programs} programs compiled in {self.seconds:.1f} s, {self.from_cache} from the cache"

    def close(self) -> None:
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)

    def _on_duration(self, event: str, duration: float, **kwargs) -> None:
        if event == _COMPILED:
            self.programs, self.seconds = self.programs + 1, self.seconds + duration

    def _on_event(self, event: str, **kwargs) -> None:
        self.from_cache += event == _FROM_CACHE
