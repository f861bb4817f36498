"""The tokenizer in a Hugging Face folder, in and out.

In: none of the folder's code is run, and what cannot be read is one sentence. Out: what transformers 4 and 5 both load.
"""

import json
import os
import pathlib

import tokenizers
import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from icegrt_jax import sums
from icegrt_jax.errors import UserError
from icegrt_jax.files import read_described, read_json, read_text, refuse_run, write_json_atomic

VOCABULARY, CONFIG, MODEL_CONFIG = "tokenizer.json", "tokenizer_config.json", "config.json"
TEMPLATE, OLD_PARTS = "chat_template.jinja", ("special_tokens_map.json", "added_tokens.json")
AS_IT_STANDS = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes without a form of their own
# In tokenizer_config.json they say how and from where a tokenizer was loaded, or name code.
LEFTOVERS = (
    "auto_map", "backend", "cache_dir", "from_slow", "is_local", "local_files_only", "merges_file", "name_or_path",
    "processor_class", "revision", "special_tokens_map_file", "subfolder", "token", "tokenizer_file", "vocab_file",
)  # fmt: skip
SAMPLE = "The question is: 12 + 1 = 13?"
CONVERT = f"save it with transformers as a fast tokenizer, which writes a {VOCABULARY}"


def read_tokenizer(folder: pathlib.Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, which has encoded a text."""
    if not (folder / VOCABULARY).is_file() and not (folder / CONFIG).is_file():
        expected = f"a folder with {VOCABULARY} and {CONFIG}"
        refuse_run(folder, expected)
        raise UserError(f"{folder}: no tokenizer here; expected {expected}.")
    sums.check(folder)
    described = {name: read_described(folder, name, "a tokenizer") for name in _small_files(folder)}
    if (folder / TEMPLATE).is_file():
        read_text(folder / TEMPLATE)
    _refuse_code(folder, described)
    try:
        tokenizer = _load(folder, described.get(CONFIG, {}).get("tokenizer_class"))
        ids = tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
    # `tokenizers` raises plain exceptions, and panics that are none of `Exception`.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise UserError(_explanation(folder, error)) from error
    if not isinstance(tokenizer.chat_template, str | dict | None):
        raise UserError(f"{folder / CONFIG}: chat_template={tokenizer.chat_template!r}; expected a text.")
    if tokenizer.is_fast and not _has_vocabulary(folder, tokenizer):
        raise UserError(f"{folder}: no vocabulary here, only settings; fetch its {VOCABULARY} as well.")
    if not ids:
        file = folder / VOCABULARY
        raise UserError(f"{file}: makes no tokens of plain text, its vocabulary is empty; fetch it again.")
    return tokenizer


def write_tokenizer(folder: str | os.PathLike, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes the tokenizer's files.

    transformers 4 knows neither the class that 5 names nor its lists of special tokens; the older names are read by
    both. The class is the one that takes tokenizer.json as it stands.
    """
    tokenizer.save_pretrained(folder)
    file = pathlib.Path(folder) / CONFIG
    described = {key: value for key, value in read_json(file).items() if key not in LEFTOVERS}
    named, more = described.pop("model_specific_special_tokens", None), described.pop("extra_special_tokens", None)
    described["tokenizer_class"] = "PreTrainedTokenizerFast"
    # In transformers 4 that class has token types as well, which `generate` of a decoder refuses.
    described["model_input_names"] = ["input_ids", "attention_mask"]
    if named:
        described["extra_special_tokens"] = named
    if more:
        described["additional_special_tokens"] = more
    write_json_atomic(file, dict(sorted(described.items())))


def auto_tokenizer(folder: pathlib.Path) -> PreTrainedTokenizerBase:
    """What AutoTokenizer makes of the folder, none of whose code is run."""
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def _load(folder: pathlib.Path, name: str | None) -> PreTrainedTokenizerBase:
    # Beside some models, Qwen 2 among them, AutoTokenizer takes the family's class whatever the folder says, and that
    # builds its own pre-tokenizer and adds a PAD; the folder says that its tokenizer.json is to be taken as it stands.
    if name in AS_IT_STANDS and (folder / VOCABULARY).is_file():
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    return auto_tokenizer(folder)


def _small_files(folder: pathlib.Path) -> list[str]:
    return [name for name in (CONFIG, *OLD_PARTS, MODEL_CONFIG) if (folder / name).is_file()]


def _refuse_code(folder: pathlib.Path, described: dict[str, dict]) -> None:
    """Refuses a tokenizer whose class is in the folder, or in another repository, instead of in transformers."""
    known = described.get(CONFIG, {}).get("tokenizer_class") or described.get(MODEL_CONFIG, {}).get("tokenizer_class")
    if isinstance(known, str) and hasattr(transformers, known):
        return  # what transformers takes then: its own
    for name, content in described.items():
        auto_map = content.get("auto_map")
        classes = auto_map.get("AutoTokenizer") if isinstance(auto_map, dict) else auto_map
        if classes:
            own = next((x for x in classes if x), classes) if isinstance(classes, list) else classes
            raise UserError(
                f"{folder / name}: auto_map names code for the tokenizer ({own}), which is never run; if its "
                f"{VOCABULARY} is all of it, set tokenizer_class to 'PreTrainedTokenizerFast' and take auto_map out, "
                f"else {CONVERT}."
            )


def _has_vocabulary(folder: pathlib.Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the files are there that transformers makes do without: it then gives a vocabulary of special tokens."""
    parts = {name for kind, name in tokenizer.vocab_files_names.items() if kind != "tokenizer_file"} - {VOCABULARY}
    return (folder / VOCABULARY).is_file() or bool(parts) and all((folder / name).is_file() for name in parts)


def _explanation(folder: pathlib.Path, error: BaseException) -> str:
    """Which file it is, what is wrong with it and what to do."""
    reason = " ".join(str(error).split()) or type(error).__name__
    file = folder / VOCABULARY
    if not file.is_file():
        reason = reason[:200]
        return f"{folder}: no {VOCABULARY}, and transformers cannot make one of what is here ({reason}); {CONVERT}."
    text = read_text(file)
    try:
        json.loads(text)
    except ValueError as broken:
        return f"{file}: not valid JSON ({broken}); fetch it again."
    try:
        tokenizers.Tokenizer.from_str(text)
    except BaseException as broken:
        return (
            f"{file}: the library tokenizers {tokenizers.__version__} does not know this form ({broken}); where a "
            "newer one wrote it, upgrade tokenizers, else fetch it again."
        )
    named = f"{type(error).__name__}: {reason[:200]}"
    return f"{folder / CONFIG}: transformers cannot make a tokenizer of it and {VOCABULARY} ({named}); mend the key."
