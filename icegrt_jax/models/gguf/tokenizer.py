"""A Hugging Face tokenizer from the vocabulary in a GGUF file.

The file names how text is cut before byte-level BPE and does not say how; the patterns are in the models' own
tokenizer.json. Or it has a SentencePiece vocabulary, whose scores say which pieces are merged first (Kudo and
Richardson 2018, arXiv 1808.06226).
"""

import dataclasses
import pathlib
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from icegrt_jax.data.tokenizers import ChatTokenizer, wrap
from icegrt_jax.errors import UserError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
END_KEYS = ("eos", "eot", "eom")  # of a text, of a turn, of a message
# Tokens that end generation in llama.cpp by their names (its src/llama-vocab.cpp), whatever the header says.
END_NAMES = (
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>",
    "_<EOT>", "<end_of_utterance>", "<｜end▁of▁sentence｜>",
)  # fmt: skip
SPACE = "\u2581"  # SentencePiece's


@dataclasses.dataclass(frozen=True)
class Cut:
    """How text is cut before byte-level BPE.

    pattern: of the pieces; empty: GPT-2's. digits: each digit is cut off first. nfc: text is composed first.
    whole_words: a piece that is in the vocabulary is taken as it is. bos: it is added unless the file says otherwise.
    """

    pattern: str = ""
    digits: bool = False
    nfc: bool = False
    whole_words: bool = False
    bos: bool = False


# Contractions, words with a sign in front, numbers (of one digit or up to three), signs, line breaks, spaces.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS = {  # by tokenizer.ggml.pre
    "gpt-2": Cut(),
    # HuggingFaceTB/SmolLM2-135M, tokenizer.json. Without the digits numbers get other ids than in training.
    "smollm": Cut(digits=True),
    # Qwen/Qwen2.5-0.5B and Qwen/Qwen3-0.6B, tokenizer.json.
    "qwen2": Cut(_WORDS % "", nfc=True),
    # meta-llama/Llama-3.2-1B, tokenizer.json.
    "llama-bpe": Cut(_WORDS % "{1,3}", whole_words=True, bos=True),
}


def read_tokenizer(path: pathlib.Path, fields: dict[str, Any]) -> ChatTokenizer:
    """The tokenizer, with its special tokens and chat template."""

    def get(key: str, default: Any = None) -> Any:
        return fields.get(f"tokenizer.ggml.{key}", default)

    kind, pre, tokens, types = (get(key) for key in ("model", "pre", "tokens", "token_type"))
    if kind not in ("gpt2", "llama") or (kind == "gpt2" and pre not in CUTS):
        raise UserError(
            f"{path}: tokenizer {kind!r} with pre-tokenizer {pre!r} is not supported; expected 'gpt2' with one of "
            f"{', '.join(CUTS)}, or 'llama' (SentencePiece)."
        )
    missing = [key for key in ("tokens", "token_type", "merges" if kind == "gpt2" else "scores") if not get(key)]
    if missing:
        raise UserError(f"{path}: tokenizer.ggml.{missing[0]} is missing, so there is no vocabulary to read.")
    uneven = [key for key in ("token_type", "scores") if get(key) is not None and len(get(key)) != len(tokens)]
    if uneven:
        raise UserError(
            f"{path}: tokenizer.ggml.{uneven[0]} has {len(get(uneven[0]))} entries for {len(tokens)} tokens; fetch it "
            "again."
        )
    special = {}
    for ours, name in SPECIAL.items():
        if (i := get(f"{name}_token_id")) is not None:
            if not 0 <= i < len(tokens):
                raise UserError(f"{path}: tokenizer.ggml.{name}_token_id={i}; there are {len(tokens)} tokens.")
            special[ours] = tokens[i]
    if kind == "llama" and get("remove_extra_whitespaces", False):
        raise UserError(f"{path}: a SentencePiece vocabulary that removes extra spaces is not supported.")
    try:
        if kind == "gpt2":
            tokenizer = byte_level_bpe(tokens, get("merges"), CUTS[pre])
        else:
            unknown = special.get("unk_token") or next((t for t, kind in zip(tokens, types) if kind == UNKNOWN), None)
            tokenizer = sentencepiece_bpe(tokens, types, get("scores"), unknown, get("add_space_prefix", True))
    except Exception as error:  # what `tokenizers` raises
        raise UserError(f"{path}: its tokens and merges make no tokenizer ({error}); fetch it again.") from error
    control = [token for token, kind in zip(tokens, types) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    defined = [token for token, kind in zip(tokens, types) if kind == USER_DEFINED]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in defined])
    if get("add_bos_token", kind == "llama" or CUTS[pre].bos) and "bos_token" in special:
        bos = special["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        extra_special_tokens=[token for token in control if token not in special.values()],
        chat_template=fields.get("tokenizer.chat_template"),
        model_max_length=fields[f"{fields['general.architecture']}.context_length"],
        clean_up_tokenization_spaces=False,
        **special,
    )
    ends = [i for key in END_KEYS if (i := get(f"{key}_token_id")) is not None]
    ends += [i for i, kind in enumerate(types) if kind == CONTROL and tokens[i] in END_NAMES]
    return wrap(wrapped, str(path), {"eos_token_id": list(dict.fromkeys(ends))})


def byte_level_bpe(tokens: list[str], merges: list[str], cut: Cut) -> Tokenizer:
    """GPT-2's kind: bytes as letters, merged in the order of `merges`."""
    vocab = {token: i for i, token in enumerate(tokens)}
    pairs: list[Any] = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocab, pairs, ignore_merges=cut.whole_words))
    cuts: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.Digits(individual_digits=True)] if cut.digits else []
    if cut.pattern:
        cuts.append(pre_tokenizers.Split(Regex(cut.pattern), behavior="isolated"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not cut.pattern)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    if cut.nfc:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def sentencepiece_bpe(
    tokens: list[str], types: list[int], scores: list[float], unknown: str | None, space_prefix: bool
) -> Tokenizer:
    """SentencePiece's kind: characters merged into the piece with the best score; unknown ones become bytes.

    The same ids but for one case: of two overlapping ways to make the same piece, SentencePiece takes the left one,
    ours the one whose first part is shorter.
    """
    vocab = {token: i for i, token in enumerate(tokens)}
    pieces = {token for token, kind in zip(tokens, types) if kind == NORMAL}
    # Every way to make a piece of two others; the best piece comes first, of equals the one with the lower id.
    merges = [
        (-scores[vocab[piece]], vocab[piece], cut, piece)
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
    pairs = [(piece[:cut], piece[cut:]) for *_, cut, piece in sorted(merges)]
    fallback = BYTE in types
    tokenizer = Tokenizer(models.BPE(vocab, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=fallback))
    spaces = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if space_prefix else spaces
    strip = [decoders.Strip(" ", 1, 0)] if space_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer
