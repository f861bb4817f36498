"""What a plan asks of a run's options: its programs on a target, with other values under some keys as well.

Imports jax, so `commands/plan.py` imports it once the environment is that of the topology.
"""

import dataclasses
import functools
from typing import Any

from jax.sharding import Mesh

from icegrt_jax.config.checks import check
from icegrt_jax.config.convert import with_values
from icegrt_jax.config.options import Options
from icegrt_jax.config.reruns import REPEATED
from icegrt_jax.plan import shapes
from icegrt_jax.plan.plan import Target, Values
from icegrt_jax.plan.ppo_programs import ppo_programs
from icegrt_jax.plan.program import Program
from icegrt_jax.plan.programs import reward_program, supervised_program
from icegrt_jax.runs.batch_check import check_rows


@dataclasses.dataclass(frozen=True)
class Planned:
    """`plan.plan.Variants` of a run: its options, the target, and how many answers a ranked prompt has."""

    options: Options
    target: Target
    answers: int

    @property
    def mesh(self) -> Mesh:
        return self.target.mesh(self.options.mesh)

    @property
    def steps(self) -> dict[str, int]:
        """Of each stage, over all rounds."""
        again = dict.fromkeys(REPEATED, self.options.rounds)
        return {stage: steps * again.get(stage, 1) for stage, steps in self.options.steps.items()}

    @property
    def models(self) -> shapes.Models:
        """The shapes of what the stages leave."""
        return shapes.models_of(
            self.options.model, self.options.reward, vocab_size=self.options.tokenizer.vocab_size,
            max_length=self.options.total,
        )  # fmt: skip

    def value(self, key: str) -> Any:
        return functools.reduce(getattr, key.split("."), self.options)

    def check(self, values: Values) -> None:
        options = with_values(self.options, values)
        check(options)
        check_rows(options.training, self.target.mesh(options.mesh))

    def programs(self, values: Values) -> tuple[Mesh, list[Program]]:
        self.check(values)
        return dataclasses.replace(self, options=with_values(self.options, values)).all_programs()

    def all_programs(self) -> tuple[Mesh, list[Program]]:
        """The mesh, and every program of the stages that the options have."""
        mesh, models, options = self.mesh, self.models, self.options
        frozen, programs = options.model.param_dtype, []
        for stage, section in (("pretrain", options.pretrain), ("sft", options.sft)):
            if section.steps:
                programs.append(supervised_program(stage, section, mesh, models, frozen))
        if options.reward.steps:
            programs.append(reward_program(options.reward, mesh, models, frozen, self.answers))
        if options.ppo.iterations:
            state = shapes.ppo_state(
                options.ppo, options.value, models, reward_model=options.reward_model,
                shared_base=options.roles.shared_base, frozen=frozen, reward=options.reward,
            )  # fmt: skip
            programs += ppo_programs(
                options.ppo, options.lengths, mesh, state, rollout_tensor=options.mesh.rollout_tensor,
                text_length=options.reward.text_length,
            )  # fmt: skip
        return mesh, programs
