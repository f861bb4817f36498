"""How a judge grades the policy's answers to held-out prompts while PPO trains."""

from collections.abc import Mapping

import numpy as np

from icegrt_jax.config.options import DrawOptions, PPOOptions
from icegrt_jax.data.records import Prompt
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation.intervals import grade_intervals
from icegrt_jax.evaluation.judges import mean_grades
from icegrt_jax.runs import generation, judging
from icegrt_jax.runs.heldout import Measure
from icegrt_jax.runs.rundir import Run
from icegrt_jax.runs.sections import sampler_for
from icegrt_jax.training.state import TrainState


def measure_answers(run: Run, ppo: PPOOptions, domain: str) -> Measure:
    """Gold of greedy answers and of answers drawn as the rollouts are, each with its 95 % interval over the prompts.

    The same keys at every measurement: what changes is the policy.
    """
    longest, judge_of = run.lengths.max_prompt_length, judging.of_ppo(ppo, domain)
    asked, _ = judging.fitting(run.load(ppo.heldout, Prompt), judge_of, run.tokenizer, longest, ppo.heldout_limit)
    if not asked:
        raise UserError(f"ppo.heldout: no prompt of at most max_prompt_length={longest} tokens is left.")
    greedy = DrawOptions(temperature=0.0, cache_dtype=ppo.cache_dtype)

    def measure(state: TrainState) -> Mapping[str, float | str]:
        model, params = state.model("policy"), state.full("policy")
        numbers, texts = {}, {}
        for name, draw in (("gold", ppo), ("gold_greedy", greedy)):
            out = generation.generate(
                run, model, params, [prompt.prompt for prompt in asked.prompts], run.key("heldout"),
                sampler_for(run.tokenizer, draw, run.lengths.max_response_length), batch_size=ppo.batch_size,
            )  # fmt: skip
            grades = asked.grade(out.text)
            numbers[name] = mean_grades(grades)["gold"]
            numbers[f"{name}_low"], numbers[f"{name}_high"] = map(float, grade_intervals(grades)["gold"])
            if draw is ppo:
                numbers["length"] = float(np.asarray(out.mask).sum(axis=1).mean())
            texts[f"{name}_sample"] = f"{asked.prompts[0].prompt[-1]['content']}\n\n**{name}**: {out.text[0]}"
        return {**numbers, **texts}

    return measure
