"""Chat templates of the shapes that published models have, in our own words, each with a tiny tokenizer."""

import functools

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = ["\n\n7\n\n8", "What is 7? It is odd.", "\nYes.\n\nWhy? Because 7 is odd.", "[INST] <<SYS>> Be brief. [/INST]"]

# SmolLM2: a system message where none is given.
CHATML = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nHelp.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ALTERNATE = (
    "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant must alternate') }}{% endif %}{% endfor %}"
)
# Llama 2: the system message is part of the first question, and there is no generation prompt.
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set turns = messages[1:] %}"
    "{% set head = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set turns = messages %}{% set head = '' %}{% endif %}"
    + ALTERNATE
    + "{% for m in turns %}{% if m.role == 'user' %}"
    "{{ bos_token + '[INST] ' + (head if loop.first else '') + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# Gemma: the assistant is called model, and nobody is called system.
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% set turns = messages %}"
    + ALTERNATE
    + "{% for m in turns %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# Qwen 3: thoughts of turns before the last question are dropped, the last answer always has some.
QWEN3 = (
    "{% set ns = namespace(asked=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set said = m.content %}{% set thought = '' %}"
    "{% if m.role == 'assistant' and '</think>' in said %}"
    "{% set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set said = said.split('</think>')[-1].strip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.index0 > ns.asked %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
    "{{ said + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Mistral: the system message stands before the last question, and only while that is unanswered.
MISTRAL = (
    "{% if messages[0].role == 'system' %}{% set turns = messages[1:] %}{% set head = messages[0].content + '\n\n' %}"
    "{% else %}{% set turns = messages %}{% set head = '' %}{% endif %}"
    + ALTERNATE
    + "{{ bos_token }}{% for m in turns %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (head if loop.last else '') + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)
# DeepSeek-R1-Distill-Qwen: role markers that are not called special, thoughts never kept.
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}{{ '<\uff5cUser\uff5c>' + m.content }}"
    "{% else %}{{ '<\uff5cAssistant\uff5c>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c>' }}{% endif %}"
)
# Command-R: the same, and two tokens open a turn.
COMMAND_R = (
    "{{ bos_token }}{% for m in messages %}"
    "{% set role = {'user': 'USER', 'assistant': 'CHATBOT', 'system': 'SYSTEM'}[m.role] %}"
    "{{ '<|START_OF_TURN_TOKEN|><|' + role + '_TOKEN|>' + m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
# Qwen 3.5: as Qwen 3, with a generation prompt that opens the thoughts and ends in a line break.
QWEN35 = QWEN3.removesuffix("{% endif %}") + "{{ '<think>\n' }}{% endif %}"
R1_ROLES = ("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>")
COHERE_ROLES = ("<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>")

# Template, BOS, EOS, further control tokens, tokens that only look like it.
SHAPES = {
    "chatml": (CHATML, None, "<|im_end|>", ("<|endoftext|>", "<|im_start|>"), ()),
    "llama2": (LLAMA2, "<s>", "</s>", (), ()),
    "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>"), ()),
    "gemma": (GEMMA, "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"), ()),
    "qwen3": (QWEN3, None, "<|im_end|>", ("<|endoftext|>", "<|im_start|>"), ("<think>", "</think>")),
    "mistral": (MISTRAL, "<s>", "</s>", (), ("[INST]", "[/INST]")),
    "r1": (R1, "<\uff5cbegin\uff5c>", "<\uff5cend\uff5c>", (), (*R1_ROLES, "</think>")),
    "command_r": (COMMAND_R, "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", (), ("<|START_OF_TURN_TOKEN|>", *COHERE_ROLES)),
    "qwen35": (QWEN35, None, "<|im_end|>", ("<|endoftext|>", "<|im_start|>"), ("<think>", "</think>")),
}


@functools.cache
def make(shape: str, *, template: str = "") -> PreTrainedTokenizerFast:
    """A byte-level BPE with the control tokens of a shape; by itself it adds BOS, as most published ones do."""
    own, bos, eos, control, plain = SHAPES[shape]
    return build(template or own, bos, eos, control, plain)


def build(template: str, bos: str | None, eos: str, control, plain) -> PreTrainedTokenizerFast:
    """A tokenizer with a template: `control` are tokens that are called special, `plain` added ones that are not."""
    bpe = Tokenizer(models.BPE())
    # As Qwen's and Llama 3's: line breaks are one word with the white space around them, and merge.
    words = pre_tokenizers.Split(Regex(r"\s*\n+|\s?\w+|\s?[^\s\w]+|\s+"), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
    bpe.decoder = decoders.ByteLevel()
    special = [*([bos] if bos else []), eos, *control]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(TEXTS * 3, trainer)
    bpe.add_tokens([AddedToken(token, normalized=False) for token in plain])
    if bos:
        bpe.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, bpe.token_to_id(bos))])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=bos, eos_token=eos, chat_template=template, clean_up_tokenization_spaces=False
    )
