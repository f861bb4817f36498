"""`icegrt sample`: answers from a checkpoint, K per prompt as records to be ranked, or one as records to learn from."""

import pathlib

from icegrt_jax.commands import leaving_models
from icegrt_jax.config.options import DrawOptions, Options
from icegrt_jax.data.encode import encode_prompt
from icegrt_jax.data.records import Instruction, Prompt, Ranking, write_jsonl
from icegrt_jax.data.sources import load_source
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.models.api import Model
from icegrt_jax.runs import generation, rundir, stage_models
from icegrt_jax.runs.opened import open_model
from icegrt_jax.runs.sections import sampler_for


def main(
    config: Options,
    workdir: pathlib.Path,
    *,
    checkpoint: str,
    prompts: str,
    out: str,
    num_samples: int,
    temperature: float,
    max_new_tokens: int,
) -> None:
    """Writes `out`: one ranking record per prompt, or with one answer each an instruction record.

    All ranks are 1, a tie that teaches nothing: `icegrt rank` shows the answers to people and writes what they say.

    Args:
      checkpoint: "pretrain", "sft", "ppo" or another stage of this workdir that leaves a policy, or the path of a model
        (a Hugging Face or .gguf file's, a stage's or a run's folder), asked with its own tokenizer and chat template.
      prompts: source of prompt records, "FORMAT:PATH".
      out: the .jsonl file.
      num_samples: K; equal answers to a prompt are written once, empty ones never.
      temperature: 0 is greedy, which gives one answer only.
    """
    if num_samples > 1 and temperature == 0:
        raise UserError(
            f"--temperature=0 gives the same answer {num_samples} times, and nothing to rank; use --num_samples=1 or a "
            "temperature above 0."
        )
    if not out.endswith(".jsonl"):
        raise UserError(f"--out={out}; expected a name ending in .jsonl.")
    run = rundir.start(config, config.lengths, config.mesh, workdir, compile_cache=config.log.compile_cache)
    records = load_source(prompts, kind=Prompt, data_dir=config.data_dir, workdir=str(workdir))
    if checkpoint in [command.name for command in leaving_models() if "policy" in command.leaves]:
        model = Model(*stage_models.stage_params(run, checkpoint, "policy"), run.tokenizer)
    else:
        model = open_model(checkpoint)  # with its own tokenizer, which need not be the run's
        model.need_logits(f"--checkpoint={checkpoint}")
    prompt_ids = [encode_prompt(record, model.tokenizer) for record in records]
    sampler = sampler_for(model.tokenizer, DrawOptions(temperature=temperature), max_new_tokens)
    texts = generation.generate(
        run, model.config, model.params, prompt_ids, run.key("sample"), sampler,
        num_samples=num_samples, tokenizer=model.tokenizer, batch_size=config.evaluate.batch_size,
    ).text  # fmt: skip
    asked = [(record, texts[i * num_samples : (i + 1) * num_samples]) for i, record in enumerate(records)]
    written = answered(asked) if num_samples == 1 else to_rank(asked)
    if sync.is_main():
        write_jsonl(out, written)
    left_out = len(records) - len(written)
    if num_samples == 1:
        print(f"{out}: {len(written)} prompts with their answer; {left_out} had an empty one")
    else:
        print(f"{out}: {len(written)} prompts to rank; {left_out} had fewer than two different answers")
        print(f"people rank them with: icegrt rank --records={out} --out=DIR")


def to_rank(asked: list[tuple[Prompt, list[str]]]) -> list[Ranking]:
    """The prompts with two answers or more."""
    different = [(record, tuple(dict.fromkeys(text for text in texts if text.strip()))) for record, texts in asked]
    return [Ranking(r.prompt, texts, (1.0,) * len(texts), r.meta) for r, texts in different if len(texts) > 1]


def answered(asked: list[tuple[Prompt, list[str]]]) -> list[Instruction]:
    """The prompts with their one answer, as conversations."""
    turn = lambda text: {"role": "assistant", "content": text}
    return [Instruction((*r.prompt, turn(text)), r.meta) for r, (text,) in asked if text.strip()]
