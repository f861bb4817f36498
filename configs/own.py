"""Your data, your reward: a model folder, two tables, a function. Sized for a laptop CPU, ten minutes on two cores.

    cp configs/own.py mine.py
    icegrt run --config=mine.py --workdir=runs/mine

A look at every stage first: --config=mine.py:smoke. README.md has it step by step.
"""

from icegrt_jax.config import default_config

SWITCHES = ("", "smoke")


def get_config(switch=""):
    c = default_config()
    # Yours.
    c.model.path = "models/smollm2-135m-instruct"  # a Hugging Face folder, or a name on the hub
    train, test = "csv:train.csv?prompt=question", "csv:test.csv?prompt=question"
    c.sft.sources.mine = f"{train}&response=answer"  # column `answer` is learned from
    c.ppo.sources.mine = f"{train}&reference=answer"  # column `answer` is what the function compares with
    c.evaluate.domain.mine = f"{test}&reference=answer"
    c.ppo.rewards.mine = "my_reward.py:reward"
    c.evaluate.judge = "my_reward.py:good"
    c.max_prompt_length, c.max_response_length = 64, 24  # tokens; icegrt data check counts yours

    # Sizes.
    c.sft.steps, c.sft.batch_size, c.sft.length = 32, 2, 256
    c.sft.lora.rank, c.sft.optimizer.lr, c.sft.optimizer.schedule = 16, 1e-3, "cosine"
    c.ppo.iterations, c.ppo.batch_size, c.ppo.num_minibatches = 8, 32, 2
    c.ppo.lora.rank, c.ppo.policy_optimizer.lr = 16, 1e-3
    c.ppo.kl.adaptive, c.ppo.kl.coef = False, 0.02
    c.value.trunk = "policy"  # the critic is a head on the actor: a third less work
    c.evaluate.limit = 100  # prompts
    if switch == "smoke":
        c.sft.steps = c.ppo.iterations = 2
        c.ppo.batch_size = c.evaluate.limit = 8
    return c
