"""`icegrt check-model`: whether a Hugging Face folder computes here what it computes in `transformers`."""

import importlib.metadata
import importlib.util

from icegrt_jax.config.choices import Dtype
from icegrt_jax.data.encode import encode_prompt
from icegrt_jax.data.records import Prompt, naming, read_jsonl, user
from icegrt_jax.data.tokenizers import ChatTokenizer, load_tokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import agreement, parity
from icegrt_jax.evaluation.parity import Result
from icegrt_jax.models.hf.folder import load_hf
from icegrt_jax.models.hf.hub import local_folder

# From two words to a few hundred tokens: digits, line breaks, other scripts, runs of spaces.
TEXTS = (
    "Good morning.",
    "What is 12 + 1998?",
    "Name a fruit,\n\na colour and\ta number:   3.50 or 1,024?",
    "Traduis « l'été » en 日本語, s'il te plaît: naïve, ½, 🙂.",
    "def double(x):\n    return 2 * x  # why?",
    "A train leaves at 7:45 and arrives at 9:10. " * 6 + "How long does it take? Explain each step.",
)
ANSWER = "That depends: there are 3 cases."
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}  # of the largest logit


def main(*, hf: str, dtype: Dtype, prompts: str, new_tokens: int, tolerance: float, reference: str) -> int:
    """Prints what was compared and what differs; returns 0 where all is within the tolerance, else 1.

    Args:
      hf: the folder, or a name on the hub.
      dtype: of the computation on both sides.
      prompts: a file of prompt records; empty: those above.
      new_tokens: of the greedy answers.
      tolerance: relative to the largest logit; 0: that of the dtype.
      reference: another folder for the side of transformers, such as the original of a converted model; empty: `hf`.
    """
    folder = local_folder(hf)
    other = local_folder(reference) if reference else folder
    tolerance = tolerance or TOLERANCE[dtype]
    tokenizer, _ = load_tokenizer(folder), load_tokenizer(other)
    config, params = load_hf(folder, dtype=dtype)
    records = read_jsonl(prompts, Prompt) if prompts else [Prompt(user(text)) for text in TEXTS]
    if not records:
        raise UserError(f"{prompts}: no records in it.")
    ids = [encode_prompt(record, tokenizer) for record in records]
    if (largest := max(map(max, ids))) >= config.vocab_size:
        raise UserError(f"{folder}: the tokenizer gives id {largest}, the embedding has {config.vocab_size} rows.")
    print(f"{folder}: {config.family}, {'reward model' if 'head' in params else 'language model'}, {dtype}, against "
          f"{other if reference else 'the same'} in transformers {importlib.metadata.version('transformers')}",
          flush=True)  # fmt: skip
    results = [
        parity.compare_ids(tokenizer, other, [record.prompt[-1]["content"] for record in records]),
        parity.compare_templates(tokenizer, other, [record.prompt for record in records]),
    ]
    scalar = "head" in params
    if scalar:
        results.append(agreement.compare_pad(tokenizer, other))
    else:
        results += [agreement.compare_eos(tokenizer, other), agreement.compare_tied(config, folder)]
    if reference and not scalar:
        results.append(agreement.compare_generation(folder, other, config.vocab_size))
    if importlib.util.find_spec("torch") is None:
        for what in ("scores",) if scalar else ("logits", "greedy tokens"):
            results.append(Result(what, "not compared", "torch is not installed", None))
    else:
        theirs = parity.load_theirs(other, dtype)
        if scalar:
            answers = [_answered(record, tokenizer) for record in records]
            answers += _unfinished(records[0], tokenizer, theirs.config.pad_token_id)
            options = (params, config, theirs, other, answers)
            results += [parity.compare_scores(*options, side, tolerance) for side in ("", *parity.PAD)]
        else:
            results += [parity.compare_logits(params, config, theirs, ids, side, tolerance) for side in parity.PAD]
            results.append(parity.compare_greedy(params, config, theirs, tokenizer, ids, new_tokens, tolerance))
    return report(results, tolerance)


def _answered(record: Prompt, tokenizer: ChatTokenizer) -> list[int]:
    """Ids of the prompt with an answer, as a reward model reads it."""
    with naming(record):
        return tokenizer.encode_conversation((*record.prompt, {"role": "assistant", "content": ANSWER}))[0]


def _unfinished(record: Prompt, tokenizer: ChatTokenizer, pad_id: int | None) -> list[list[int]]:
    """Ids of the prompt with answers that were cut off, also where the text of the PAD stands."""
    texts = [ANSWER]
    if pad_id is not None:
        texts += [ANSWER + gap + tokenizer.tokenizer.decode([pad_id]) for gap in ("", " ", "\n")]
    with naming(record):
        return [tokenizer.encode_answer(record.prompt, text, finished=False)[0] for text in texts]


def report(results: list[Result], tolerance: float) -> int:
    """Prints the table and the verdict; the exit code."""
    widths = [max(len(getattr(result, column)) for result in results) for column in ("what", "amount")]
    for result in results:
        sign = {True: " ", False: "!", None: "?"}[result.equal]
        print(f"{sign} {result.what:<{widths[0]}}  {result.amount:<{widths[1]}}  {result.found}")
    different, missing = ([result.what for result in results if result.equal is x] for x in (False, None))
    verdict = f"differs: {'; '.join(different)}" if different else "the same"
    if missing:
        verdict += f"{'' if different else ' in what was compared'}; not compared: {', '.join(missing)}"
    print(f"{verdict} (tolerance {tolerance:g} of the largest logit)", flush=True)
    return 1 if different else 0
