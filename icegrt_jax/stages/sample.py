"""`icegrt sample`: K answers per prompt from a checkpoint, as ranking records for people to rank."""

import pathlib

from ml_collections import ConfigDict

from icegrt_jax.data.fitting import encode_prompt
from icegrt_jax.data.records import Prompt, Ranking, write_jsonl
from icegrt_jax.data.sources import load_source
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model, load_hf_model
from icegrt_jax.parallel import hosts
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.stages import common, layouts

STAGES = ("pretrain", "sft", "ppo")


def main(
    config: ConfigDict,
    workdir: pathlib.Path,
    *,
    checkpoint: str,
    prompts: str,
    out: str,
    num_samples: int,
    temperature: float,
    max_new_tokens: int,
) -> None:
    """Writes `out`, one ranking record per prompt.

    All ranks are 1, a tie that teaches nothing: whoever ranks the answers replaces them (1 is best).

    Args:
      checkpoint: "pretrain", "sft" or "ppo" of this workdir, or a Hugging Face folder, which is asked with
        its own tokenizer and chat template.
      prompts: source of prompt records, "FORMAT:PATH".
      out: the .jsonl file.
      num_samples: K, two or more; equal answers to a prompt are written once.
    """
    if num_samples < 2:
        raise UserError(f"--num_samples={num_samples}; a ranking needs 2 answers or more.")
    if not out.endswith(".jsonl"):
        raise UserError(f"--out={out}; expected a name ending in .jsonl.")
    run = common.start(config, workdir)
    records = load_source(prompts, kind=Prompt, data_dir=config.data_dir, workdir=str(workdir))
    if checkpoint in STAGES:
        model = Model(*common.stage_params(run, checkpoint, "policy"), run.tokenizer)
    else:
        model = load_hf_model(checkpoint)  # with its own tokenizer, which need not be the run's
    prompt_ids = [encode_prompt(record, model.tokenizer) for record in records]
    sampler = SamplerConfig(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        eos_ids=model.tokenizer.eos_ids,
        pad_id=model.tokenizer.pad_id,
    )
    texts = layouts.generate(
        run, model.config, model.params, prompt_ids, run.key("sample"), sampler,
        num_samples=num_samples, tokenizer=model.tokenizer,
    ).text  # fmt: skip
    rankings = []
    for i, record in enumerate(records):
        answers = tuple(dict.fromkeys(t for t in texts[i * num_samples : (i + 1) * num_samples] if t.strip()))
        if len(answers) > 1:
            rankings.append(Ranking(record.prompt, answers, (1.0,) * len(answers), record.meta))
    if hosts.is_main():
        write_jsonl(out, rankings)
    left_out = len(records) - len(rankings)
    print(f"{out}: {len(rankings)} prompts to rank; {left_out} had fewer than two different answers")
