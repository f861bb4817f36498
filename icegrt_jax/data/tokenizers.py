"""Hugging Face fast tokenizers with a chat template: made, loaded, and used through one small class.

Sennrich et al. 2016, https://arxiv.org/abs/1508.07909, for BPE; the byte-level
form is GPT-2's.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from icegrt_jax.data import chat, content, forgery, special_ids, template
from icegrt_jax.data.tokenizer_folder import read_tokenizer, write_tokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.files import write_json_atomic

PAD, END = "<|pad|>", "<|end|>"
ROLE_MARKERS = ("<|system|>", "<|user|>", "<|assistant|>")
# One token before each turn, one after it.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclasses.dataclass(frozen=True)
class ChatTokenizer:
    """A fast tokenizer and the ids the rest of the library needs from it.

    Attributes:
      tokenizer: the Hugging Face tokenizer.
      pad_id: fills the places that masks leave out. The tokenizer's PAD where it has one
        that isn't an EOS, else the first id that is none: embeddings are never resized, padding is known by the mask.
      eos_ids: tokens that end a response; first the one its chat template writes, then the
        tokenizer's EOS, then those that its folder names for generation.
      generation: the other settings of generation of its folder, kept for an export.
    """

    tokenizer: PreTrainedTokenizerBase
    pad_id: int
    eos_ids: tuple[int, ...]
    generation: dict = dataclasses.field(default_factory=dict, compare=False)

    @property
    def eos_id(self) -> int:
        """The end-of-turn token of the chat template."""
        return self.eos_ids[0]

    @functools.cached_property
    def vocab_size(self) -> int:
        """One more than the highest id, added tokens included; ids need not be without gaps."""
        return max(self.tokenizer.get_vocab().values()) + 1

    @functools.cached_property
    def longest_token(self) -> int:
        """In characters, or as many as its bytes."""
        return max(map(len, self.tokenizer.get_vocab()))

    @functools.cached_property
    def fingerprint(self) -> str:
        """The same for tokenizers that are the same, see `same_tokenizer`."""
        return hashlib.sha256(json.dumps(_content(self), sort_keys=True, default=str).encode()).hexdigest()

    def encode_prompt(self, messages: Sequence[dict]) -> list[int]:
        """Ids up to the place where the assistant starts to speak."""
        messages = self._checked(messages)
        ids = chat.tokenize(self.tokenizer, template.render(self.tokenizer, messages, generate=True))
        self._control_tokens.refuse_made(messages, ids, generate=True)
        return ids

    def disarmed(self, messages: Sequence[dict]) -> list[dict]:
        """The messages with a space in each control token that is written in them, so that it makes no turn."""
        apart, separator = self._control_tokens.taken_apart(content.plain(messages))
        return [{**m, "content": m["content"].replace(separator, " ")} for m in apart] if separator else apart

    def encode_conversation(self, messages: Sequence[dict]) -> tuple[list[int], list[bool]]:
        """Ids, and which of them the assistant has to produce (every turn's end token included)."""
        return self.encode_examples(messages)[0]

    def encode_answer(self, prompt: Sequence[dict], answer: str, *, finished: bool = True) -> tuple[list[int], int]:
        """Ids of a prompt with an answer that may be a model's, and the index of the answer's first token.

        Nothing is refused: a control token written out (of two characters or more) is encoded as the characters
        it is made of, in two parts, so that it never makes a turn. See `chat.encode_answer`, also for what an
        unfinished answer is.
        """
        messages = content.plain((*prompt, {"role": "assistant", "content": answer}))
        messages, separator = self._control_tokens.taken_apart(messages)
        return chat.encode_answer(self.tokenizer, messages, self.eos_ids, separator, finished=finished)

    def encode_examples(self, messages: Sequence[dict]) -> list[tuple[list[int], list[bool]]]:
        """The conversation as above, then each turn that does not stand in it as it would be sampled."""
        messages = self._checked(messages)
        examples = chat.encode_examples(self.tokenizer, messages, self.eos_ids)
        self._control_tokens.refuse_made(messages, examples[0][0], generate=False)
        return examples

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text, nothing added; a control token that is written in it becomes one."""
        content.refuse_half_characters(text, "text")
        return chat.tokenize(self.tokenizer, text)

    def encode_document(self, text: str) -> list[int]:
        """Ids of plain text that is learned from, in which no control token may stand: it would begin or end a turn."""
        ids = self.encode_text(text)
        self._control_tokens.refuse_in_text(text, ids)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The text of each token by itself, special ones as well."""
        return [self.tokenizer.decode([int(token)], skip_special_tokens=False) for token in ids]

    def save(self, path: str | os.PathLike) -> None:
        """Writes a Hugging Face tokenizer folder."""
        write_tokenizer(path, self.tokenizer)
        if self.generation:
            settings = {**self.generation, special_ids.EOS: special_ids.one_or_list(self.eos_ids)}
            write_json_atomic(pathlib.Path(path) / special_ids.GENERATION, settings)

    @functools.cached_property
    def _control_tokens(self) -> forgery.ControlTokens:
        return forgery.control_tokens(self.tokenizer, self.eos_ids)

    @functools.cached_property
    def _leaves_out_system(self) -> bool:
        return template.leaves_out_system(self.tokenizer)

    def _checked(self, messages: Sequence[dict]) -> list[dict]:
        """The messages with strings as contents, after a look at what must not be in them."""
        messages = content.plain(messages)
        self._control_tokens.refuse_written(messages)
        if messages[0]["role"] == "system" and self._leaves_out_system:
            raise UserError(
                "the chat template leaves out system messages; put the text into the user's message, or use another"
                " template."
            )
        return messages


def train_bpe(texts: Iterable[str], vocab_size: int, path: str | os.PathLike) -> ChatTokenizer:
    """Trains a byte-level BPE with our chat template and saves it as a Hugging Face folder.

    The same texts give the same files. Numbers are split into digits, which small
    models need for arithmetic. Fewer than `vocab_size` ids result if the texts hold
    too few pairs to merge.
    """
    special = [PAD, END, *ROLE_MARKERS]
    smallest = len(special) + 256
    if vocab_size < smallest:
        raise UserError(f"vocab_size={vocab_size}: a byte-level vocabulary needs {smallest} or more.")
    bpe = Tokenizer(models.BPE())
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=list(ROLE_MARKERS),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    write_tokenizer(path, tokenizer)
    return load_tokenizer(path)


def load_tokenizer(path: str | os.PathLike, *, chat: bool = True) -> ChatTokenizer:
    """The tokenizer of a local Hugging Face folder, without `chat` also one that has no chat template."""
    folder = pathlib.Path(path).expanduser()
    tokenizer = read_tokenizer(folder)
    return wrap(tokenizer, str(folder), special_ids.read_generation(folder, len(tokenizer)), chat=chat)


def wrap(
    tokenizer: PreTrainedTokenizerBase, name: str = "tokenizer", generation: dict | None = None, *, chat: bool = True
) -> ChatTokenizer:
    """A `ChatTokenizer` of a Hugging Face tokenizer, after checking that it can be trained with.

    Args:
      tokenizer: left as it is; the one inside has another PAD where its own would be read as an answer's end.
      name: in messages.
      generation: settings of generation, their `eos_token_id` a list; see `special_ids.read_generation`.
      chat: whether it must have a chat template; where it has one, it is looked at in any case.
    """
    if not tokenizer.is_fast:
        raise UserError(f"{name}: not a fast tokenizer; convert it to a tokenizer.json first.")
    if not tokenizer.chat_template and chat:
        raise UserError(
            f"{name}: no chat template; add chat_template.jinja, or chat_template to tokenizer_config.json."
        )
    end = None
    try:
        if tokenizer.chat_template:
            template.check(tokenizer)
            end = _end_of_turn(tokenizer)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    generation = generation or {}
    candidates = [i for i in (end, tokenizer.eos_token_id, *generation.get(special_ids.EOS, ())) if i is not None]
    if not candidates:
        raise UserError(f"{name}: no EOS token and no end-of-turn token in the chat template; set eos_token.")
    eos_ids = tuple(dict.fromkeys(candidates))
    tokenizer = special_ids.with_pad(tokenizer, eos_ids)
    pad_id = tokenizer.pad_token_id
    if pad_id is None or pad_id in eos_ids:
        pad_id = next(i for i in itertools.count() if i not in eos_ids)
    return ChatTokenizer(tokenizer, pad_id, eos_ids, generation)


def same_tokenizer(one: ChatTokenizer, other: ChatTokenizer) -> bool:
    """Whether both give the same ids for every text and every conversation, so that ids of one are ids of the other.

    Decided by what the tokenizers hold, wherever they are kept and whatever they are called: the parts of
    tokenizer.json that make ids of text (normalizer, pre-tokenizer, the model with its vocabulary and
    merges, added tokens), the chat template, the special tokens that a template may write, and the id
    that ends a turn; which others end a response concerns the sampler alone. Decoder and post-processor do not
    matter: ids are never made by them here.
    """
    return _content(one) == _content(other)


def _content(tokenizer: ChatTokenizer) -> tuple:
    made = json.loads(tokenizer.tokenizer.backend_tokenizer.to_str())
    added = sorted(made["added_tokens"], key=lambda token: token["id"])
    special = tokenizer.tokenizer.special_tokens_map
    parts = (made["normalizer"], made["pre_tokenizer"], made["model"], added)
    return (*parts, tokenizer.tokenizer.chat_template, special, tokenizer.eos_id)


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The first added token, white space aside, that the chat template writes after an assistant's words, if any."""
    special = {*tokenizer.all_special_ids, *(i for token, i in tokenizer.get_added_vocab().items() if token.strip())}
    return next((i for i in chat.tokenize(tokenizer, template.after_answer(tokenizer)) if i in special), None)
