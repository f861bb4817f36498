"""TRL's PPOTrainer. Version 1.12 is the last that has it."""

import time

import datasets
import torch
import trl.experimental.ppo.ppo_trainer as module
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer

from benchmarks.cases import random_tokens
from benchmarks.peers.trl_parts import STEPS, OneStepPerTurn, common_options, id_tokenizer, scalar_model


class Clock:
    """Seconds of what the trainer calls, and when its training begins within an iteration.

    PPOTrainer has no hooks between its phases, so functions of its module are wrapped.
    """

    def __init__(self):
        self.seconds, self.trains_at, self.lengths = {}, None, None
        self.wrap("batch_generation", "rollout")
        forward, truncate = module.forward, module.truncate_response

        def noted_forward(network, *args, **kwargs):
            if isinstance(network, module.PolicyAndValueWrapper) and self.trains_at is None:
                self.trains_at = time.perf_counter()
            return forward(network, *args, **kwargs)

        def noted_truncate(stop_token_id, pad_token_id, responses):
            ended = (responses == stop_token_id).int()
            first = torch.where(ended.any(1), ended.argmax(1) + 1, responses.shape[1])
            self.lengths = (self.lengths or []) + first.tolist()
            return truncate(stop_token_id, pad_token_id, responses)

        module.forward, module.truncate_response = noted_forward, noted_truncate

    def wrap(self, name: str, phase: str) -> None:
        function = getattr(module, name)

        def timed(*args, **kwargs):
            began = time.perf_counter()
            out = function(*args, **kwargs)
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began
            return out

        setattr(module, name, timed)

    def read(self, total: float) -> tuple[dict, dict]:
        """The phases of the iteration that ends now and took `total` seconds, and response lengths if any ended."""
        learn, rollout = time.perf_counter() - self.trains_at, self.seconds["rollout"]
        phases = {"rollout": rollout, "score": total - rollout - learn, "learn": learn}
        info = {"lengths": self.lengths} if self.lengths else {}
        self.seconds, self.trains_at, self.lengths = {}, None, None
        return phases, info


def ppo(
    turns,
    *,
    model: dict,
    batch: int,
    prompt: int,
    new: int,
    epochs: int,
    prompts: list | None = None,
    eos_ids: list = (),
    micro_batch: int = 0,
) -> None:
    """PPO with four separate models from one folder, one minibatch; EOS ends a response where `eos_ids` names one.

    micro_batch: rows whose gradients are computed at a time, where the logits of all would need too much memory.
    """
    micro_batch = micro_batch or batch
    torch.manual_seed(0)
    path = model["path"]
    networks = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for _ in range(2)]
    critic, reward = scalar_model(path), scalar_model(path)
    if prompts is None:
        tokenizer = id_tokenizer(model["shape"]["vocab_size"])
        prompts = random_tokens(model["shape"]["vocab_size"], batch, prompt).tolist()
    else:
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)  # another one than EOS, as TRL's documentation asks
        assert tokenizer.eos_token_id in eos_ids and tokenizer.pad_token_id not in eos_ids
    options = PPOConfig(
        **common_options(), per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=batch // micro_batch, num_mini_batches=1,
        num_ppo_epochs=epochs, local_rollout_forward_batch_size=batch, total_episodes=batch * STEPS,
        response_length=new, temperature=1.0, stop_token="eos" if eos_ids else None, kl_coef=0.05,
        eval_strategy="no", num_sample_generations=0,
    )  # fmt: skip
    trainer = PPOTrainer(
        args=options, processing_class=tokenizer, model=networks[0], ref_model=networks[1], reward_model=reward,
        value_model=critic, train_dataset=datasets.Dataset.from_dict({"input_ids": prompts}),
        callbacks=[OneStepPerTurn(turns, Clock().read)],
    )  # fmt: skip
    trainer.train()
