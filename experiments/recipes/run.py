"""Which published recipe does most on the quickstart's domain with the same number of sampled answers?

    python experiments/recipes/run.py --runs=runs/seeds --out=runs/recipes

RUNS has the finished runs of `experiments/quickstart_seeds/run.py`, which are the recipe of ICE-GRT. Of each seed PPO
and the evaluation are run again with the method of every other recipe in configs/recipes, from that seed's reward
model, and with two estimators that have no critic in the recipe's own. What is finished is not repeated, and with
--only=ARM other arms are left for another time. Then results/recipes.json, results/table.md and results/frontier.png
are written beside this file, of the arms that two or more of the seeds have finished.
"""

import pathlib
import runpy

HERE = pathlib.Path(__file__).parent
SHARED = runpy.run_path(str(HERE.parent / "arms.py"))
Arm = SHARED["Arm"]
PUBLISHED = ("n_plus", "ppo_max", "dapo", "vapo")  # each file says what it is from
# arXiv 2402.14740: four answers to a prompt, the KL in the reward; how much of it is the recipe's, as all else.
RLOO = ("ppo.estimator=rloo", "ppo.samples_per_prompt=4", "ppo.batch_size=32", "ppo.value_warmup=0")
# arXiv 2402.03300, section 4.2: KL of 0.04 in the loss, one update a rollout. Of its 64 answers to a prompt 16.
GRPO = (
    "ppo.estimator=grpo", "ppo.samples_per_prompt=16", "ppo.batch_size=8", "ppo.value_warmup=0", "ppo.kl.into=loss",
    "ppo.kl.kind=k3", "ppo.kl.coef=0.04", "ppo.kl.reference_temperature=0.0", "ppo.num_minibatches=1",
    "ppo.ptx.coef=0.0",
)  # fmt: skip
# The reward model has ranked answers at temperature 1: N+ (0.7) and PPO-max (0.8, top-p 0.9) would make it anew.
SAMPLED = ("ppo.temperature=1.0", "ppo.top_p=1.0")
ARMS = {
    **{name: Arm("as published", "reward", SAMPLED, f"configs/recipes/{name}.py:quickstart") for name in PUBLISHED},
    "grpo": Arm("as published", "reward", GRPO),
    "rloo": Arm("the recipe's estimator", "reward", RLOO),
}

if __name__ == "__main__":
    SHARED["main"](ARMS, HERE, __doc__, "method")
