"""Do the four factors of ICE-GRT matter: data, size of the reward, KL-control, normalised advantages?

    python experiments/four_factors/run.py --runs=runs/seeds --out=runs/four_factors

RUNS has the finished runs of `experiments/quickstart_seeds/run.py`. Of each seed PPO and the evaluation are run again
for every arm, from that seed's reward model, or from its base model where SFT is another too; what is finished is not
repeated, and with --only=ARM other arms are left for another time. Then results/four_factors.json, results/table.md and
results/frontier.png are written beside this file, of the arms that two or more of the seeds have finished.
"""

import pathlib
import runpy

HERE = pathlib.Path(__file__).parent
# KL-control as it is usually done: to ICE-Instruct as it is, the coefficient led to a target.
ADAPTIVE = (
    "ppo.kl.reference_temperature=0.0", "ppo.kl.adaptive=True", "ppo.kl.coef=0.15", "ppo.kl.target=1.5",
    "ppo.kl.horizon=500.0",
)  # fmt: skip
# A reward model of another size, trained on the seed's own rankings: its ICE-Instruct is made first.
OF_BASE = ("value.init=sft", "reward.init={base}")
SHARED = runpy.run_path(str(HERE.parent / "arms.py"))
Arm = SHARED["Arm"]
ARMS = {
    # The critic begins as ICE-Instruct in these three: else it would have the reward model's size as well.
    "critic from ICE-Instruct": Arm("reward model", "reward", ("value.init=sft",)),
    "a quarter of the policy": Arm("reward model", "sft", OF_BASE, base=("model.d_model=64", "model.d_ff=128")),
    "four times the policy": Arm("reward model", "sft", OF_BASE, base=("model.d_model=256", "model.d_ff=512")),
    "score as it is": Arm("reward scaling", "reward", ("ppo.score.scale=none",)),
    "score a tenth": Arm("reward scaling", "reward", ("ppo.reward_weights.model=0.1",)),
    "score ten times": Arm("reward scaling", "reward", ("ppo.reward_weights.model=10.0",)),
    "no KL": Arm("KL-control", "reward", ("ppo.kl.coef=0.0",)),
    "KL ten times": Arm("KL-control", "reward", ("ppo.kl.coef=2.5",)),
    "reference not sharper": Arm("KL-control", "reward", ("ppo.kl.reference_temperature=0.0",)),
    "adaptive, reference not sharper": Arm("KL-control", "reward", ADAPTIVE),
    "advantages as they are": Arm("advantage normalization", "reward", ("ppo.advantages=none",)),
    "advantages to mean 0 only": Arm("advantage normalization", "reward", ("ppo.advantages=mean",)),
    "score ten times, advantages as they are": Arm(
        "advantage normalization", "reward", ("ppo.reward_weights.model=10.0", "ppo.advantages=none"),
    ),
    "no replay": Arm("data", "reward", ("ppo.ptx.coef=0.0",)),
    "SFT on the domain alone": Arm(
        "data", "pretrain",
        ("sft.weights.domain=0.7", "sft.weights.decisions=0.3", "sft.weights.general=0.0", "ppo.ptx.coef=0.0"),
    ),
    "three times as long": Arm("length", "reward", ("ppo.iterations=180",)),
    "three times as long, adaptive, reference not sharper": Arm("length", "reward", ("ppo.iterations=180", *ADAPTIVE)),
}  # fmt: skip

if __name__ == "__main__":
    SHARED["main"](ARMS, HERE, __doc__, "factor")
