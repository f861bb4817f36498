"""A tokenizer of another make than the one that `train_bpe` gives: vocabulary, markers and template differ."""

import pathlib

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from icegrt_jax.data.tokenizers import ChatTokenizer, load_tokenizer

# A system turn where none is given, a line break behind each end.
CHATML = (
    "{{ bos_token }}{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nHelp.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 2: the answer between spaces, its own spaces trimmed.
SPACED = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<s>[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'system' %}{{ raise_exception('no system turns') }}"
    "{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
TEXTS = ["\nverdict: accept. the ad\nis true", "verdict: reject. because of rule 3", "[INST] review [/INST]"] * 9


def second_tokenizer(folder, *, template: str = CHATML, eos: str = "<|im_end|>") -> ChatTokenizer:
    """Trains it, with about 300 ids, and saves it in `folder`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=310, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token=eos, pad_token="</s>", chat_template=template
    )
    tokenizer.save_pretrained(pathlib.Path(folder))
    return load_tokenizer(folder)
