"""How a judge grades the policy's answers to held-out prompts while PPO trains."""

from collections.abc import Mapping

import numpy as np

from icegrt_jax.config.options import DrawOptions, PPOOptions
from icegrt_jax.data.encode import encode_prompt
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
    loaded = {name: records[: ppo.heldout_limit or None] for name, records in run.load(ppo.heldout, Prompt).items()}
    longest = run.lengths.max_prompt_length
    fitting = {
        name: [prompt for prompt in records if len(encode_prompt(prompt, run.tokenizer)) <= longest]
        for name, records in loaded.items()
    }
    if not any(fitting.values()):
        raise UserError(f"ppo.heldout: no prompt of at most max_prompt_length={longest} tokens is left.")
    asked = judging.questions(fitting, judging.of_ppo(ppo, domain))
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
