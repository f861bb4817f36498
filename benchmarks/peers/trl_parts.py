"""What TRL's trainers need here: a tokenizer without a language, trainer options, and one step per turn."""

import tempfile

from tokenizers import Tokenizer, models
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast, TrainerCallback

OUTPUT = tempfile.TemporaryDirectory(prefix="bench-trl-")  # trainers want a folder; gone with the process
STEPS = 10_000  # more than any benchmark makes; the last turn ends the process


def id_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Token t5 has id 5; the data is ids already, and no id of it is special."""
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocab_size)}, unk_token="t3"))
    special = {"pad_token": "t0", "bos_token": "t1", "eos_token": "t2", "unk_token": "t3"}
    return PreTrainedTokenizerFast(tokenizer_object=words, padding_side="left", **special)


def common_options() -> dict:
    """float32 without gradient checkpointing, TRL's fastest setting on a CPU; nothing saved or reported."""
    return {
        "output_dir": OUTPUT.name, "bf16": False, "fp16": False, "use_cpu": True,
        "gradient_checkpointing": False, "report_to": [], "save_strategy": "no", "logging_steps": 1,
        "disable_tqdm": True, "learning_rate": 1e-6, "seed": 0,
    }  # fmt: skip


def scalar_model(path: str):
    import torch

    network = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=torch.float32)
    network.config.pad_token_id = 0
    return network


class OneStepPerTurn(TrainerCallback):
    """Waits for a turn before each step of a trainer; `phases()` says how the step that has ended was spent."""

    def __init__(self, turns, phases):
        self.turns, self.phases = turns, phases

    def on_train_begin(self, *args, **kwargs):
        self._wait()

    def on_step_end(self, *args, **kwargs):
        seconds, info = self.phases(self.turns.watch.read()[0])
        self.turns.done(seconds, **info)
        self._wait()

    def _wait(self):
        if not self.turns.wait():
            raise SystemExit(0)  # the trainer's loop has no other way out that skips its own work at the end
