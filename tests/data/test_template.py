"""Chat templates that do not simply write what is said: served, or refused with a sentence of their own."""

import json

import pytest

from icegrt_jax.data import template
from icegrt_jax.data.encode import fit_examples
from icegrt_jax.data.records import Instruction, read_jsonl, user
from icegrt_jax.data.tokenizers import load_tokenizer, same_tokenizer, wrap
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import parity
from tests.data.templates import CHATML, GEMMA, LLAMA3, R1, make

SYSTEM, SAID = {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "It is 7.\nYes."}
TURNS = (*user("What is 7?"), SAID, *user("Is 7 odd?"), {"role": "assistant", "content": "Yes."})
FRAME = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}BODY{{ '<|im_end|>\n' }}{% endfor %}" \
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"  # fmt: skip
PLAIN = FRAME.replace("BODY", "{{ m.content }}")
PARTS = {
    # As LLaVA and Idefics.
    "selected": "{% for c in m.content | selectattr('type', 'equalto', 'text') %}{{ c.text }}{% endfor %}",
    "joined": "{% for c in m.content %}{{ c['text'] }}{% endfor %}",
    "added": "{% for c in m['content'] %}{{ '' + c['text'] }}{% endfor %}",
    "first": "{{ m.content[0]['text'] }}",
    "both": "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}{{ c.text }}{% endfor %}"
    "{% endif %}",
    "user's only": "{% if m.role != 'assistant' %}{% for c in m.content %}{{ c.text }}{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}",
    "assistant's only": "{% if m.role == 'assistant' %}{{ m.content[0].text }}{% else %}{{ m.content }}{% endif %}",
}


@pytest.mark.parametrize("form", PARTS)
@pytest.mark.parametrize("messages", [TURNS, (SYSTEM, *TURNS)])
def test_a_template_that_reads_contents_as_parts_is_given_parts(form, messages):
    plain, tokenizer = (wrap(make("chatml", template=text)) for text in (PLAIN, FRAME.replace("BODY", PARTS[form])))
    assert tokenizer.encode_examples(messages) == plain.encode_examples(messages)
    assert tokenizer.encode_prompt(messages[:-1]) == plain.encode_prompt(messages[:-1])
    for finished in (True, False):
        arguments = messages[:-1], "No <|im_end|>."
        expected = plain.encode_answer(*arguments, finished=finished)
        assert tokenizer.encode_answer(*arguments, finished=finished) == expected
    assert tokenizer.eos_ids == plain.eos_ids


def test_check_model_gives_the_other_side_parts_too(tmp_path):
    make("chatml", template=FRAME.replace("BODY", PARTS["joined"])).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert parity.compare_templates(tokenizer, tmp_path, [user("What is 7?")]).equal


WITHOUT_ANSWER = FRAME.replace("BODY", "{{ m.content if m.role != 'assistant' }}")
USELESS = {
    "drops the answer": (WITHOUT_ANSWER, "leaves out the assistant's words, also where contents are given in parts"),
    "drops the turn": (PLAIN.replace("in messages", "in messages if m.role != 'assistant'"), "leaves out the assist"),
    "drops the question": (FRAME.replace("BODY", "{{ m.content if m.role == 'assistant' }}"), "leaves out the user's"),
    "other field": (FRAME.replace("BODY", "{{ m.text }}"), "leaves out the assistant's words"),
    "upper": (PLAIN.replace("m.content", "m.content | upper"), "changes the case of the assistant's words"),
    "lower": (PLAIN.replace("m.content", "m.content | lower"), "changes the case of the assistant's words"),
    "title": (PLAIN.replace("m.content", "m.content | title"), "changes the case of the assistant's words"),
    "asker": (PLAIN.replace("m.content", "(m.content | upper if m.role == 'user' else m.content)"), "the user's words"),
    "raises": ("{{ raise_exception('no more') }}" + PLAIN, r"refuses every conversation, .*\(no more\)"),
    "syntax": ("{% for m in messages %}", r"is no Jinja template \(line 1: "),
    "undefined": (PLAIN.replace("m.content", "m.said.strip()"), r"fails on every .*has no attribute 'said'"),
    "type": (PLAIN.replace("m.content", "m.content + 1"), r"fails on every conversation, .*\(can only concatenate"),
    "division": (PLAIN + "{{ 1 / 0 }}", r"fails on every conversation, .*\(division by zero\)"),
    "filter": (PLAIN.replace("m.content", "m.content | shout"), r"is no Jinja template \(line 2: No filter named"),
}


@pytest.mark.parametrize("case", USELESS)
def test_a_template_that_nothing_can_be_trained_with_is_refused_with_its_folder(tmp_path, case):
    text, problem = USELESS[case]
    make("chatml", template=text).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"^{tmp_path}: the chat template .*{problem}") as raised:
        load_tokenizer(tmp_path)
    assert "record" not in str(raised.value), "nobody has given one yet"


def named(tmp_path, **versions):
    """As Hermes and Command-R+ have it: several templates in tokenizer_config.json."""
    make("chatml").save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config["chat_template"] = [{"name": name, "template": text} for name, text in versions.items()]
    file.write_text(json.dumps(config))
    return tmp_path


def test_of_several_named_templates_the_default_one_is_used(tmp_path):
    tokenizer = load_tokenizer(named(tmp_path, tool_use=WITHOUT_ANSWER, default=CHATML))
    assert tokenizer.encode_examples(TURNS) == wrap(make("chatml")).encode_examples(TURNS)
    tokenizer.save(tmp_path / "copy")
    copy = load_tokenizer(tmp_path / "copy")
    assert copy.encode_prompt(TURNS[:1]) == tokenizer.encode_prompt(TURNS[:1]) and same_tokenizer(copy, tokenizer)


@pytest.mark.parametrize("versions", [{"tool_use": CHATML, "rag": CHATML}, {"tool_use": CHATML}])
def test_several_named_templates_without_a_default_are_refused_by_their_names(tmp_path, versions):
    names = ", ".join(sorted(versions))
    with pytest.raises(UserError, match=rf"^{tmp_path}: .* in the versions {names} and none is called default"):
        load_tokenizer(named(tmp_path, **versions))


def test_what_the_sentence_advises_helps(tmp_path):
    named(tmp_path, tool_use=WITHOUT_ANSWER, rag=CHATML)
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    assert load_tokenizer(tmp_path).encode_examples(TURNS) == wrap(make("chatml")).encode_examples(TURNS)


def instructions(tmp_path, *messages):
    file = tmp_path / "rows.jsonl"
    good = json.dumps({"prompt": "a", "response": "b"})
    file.write_text(f"{good}\n{json.dumps({'messages': messages})}\n")
    return read_jsonl(file, Instruction)[1:]


ESCAPED = PLAIN.replace("m.content", "m.content | replace('\n', '\\\\n')")
FAILING = PLAIN.replace("m.content", "m.content + (m.name if '7' in m.content else '')")
THOUGHT = {"role": "assistant", "content": "<think>\n7?\n</think>\n\nIt is 7."}


@pytest.mark.parametrize(("text", "messages", "problem"), [
    (R1.replace("eos_token", "'<|im_end|>'"), [*user("What?"), THOUGHT], "does not write the assistant's words as"),
    (ESCAPED, TURNS, r"does not write the assistant's words as they stand: 'It is 7.*has become 'It is 7.\\\\nYes"),
    (FAILING, TURNS, r"fails on a conversation of the roles user, assistant \(UndefinedError: .*template is at fault"),
    (PLAIN.replace("in messages", "in messages if m.role != 'system'"), [SYSTEM, *TURNS], "leaves out system messages"),
    (CHATML.replace("assistant\n'", "assistant\n<think>\n'"), TURNS[:2],
     r"asks for an answer with .*<think>\\n' and writes this one behind .*assistant\\nIt"),
])  # fmt: skip
def test_a_record_that_a_template_does_not_write_as_it_stands_is_named(tmp_path, text, messages, problem):
    with pytest.raises(UserError, match=rf"^{tmp_path}/rows\.jsonl, line 2: the chat template .*{problem}"):
        fit_examples(instructions(tmp_path, *messages), wrap(make("chatml", template=text)), 500, "drop")


def test_a_template_that_wants_a_system_message_serves_those_that_have_one(tmp_path):
    wanting = "{% if messages[0].role != 'system' %}{{ raise_exception('no system message') }}{% endif %}" + PLAIN
    tokenizer = wrap(make("chatml", template=wanting))
    plain = wrap(make("chatml", template=PLAIN))
    assert tokenizer.encode_examples((SYSTEM, *TURNS)) == plain.encode_examples((SYSTEM, *TURNS))
    answer = tokenizer.encode_answer((SYSTEM, *TURNS[:1]), "a", finished=False)
    assert answer == plain.encode_answer((SYSTEM, *TURNS[:1]), "a", finished=False)
    with pytest.raises(UserError, match=r"refuses a conversation of the roles user \(no system message\)"):
        tokenizer.encode_prompt(TURNS[:1])


def test_words_of_the_template_s_own_are_not_taken_for_the_answer():
    speaking = LLAMA3.replace("+ '<|eot_id|>'", "+ '\nanswer: question<|eot_id|>answer'")
    tokenizer = wrap(make("llama3", template=speaking))
    assert tokenizer.tokenizer.convert_ids_to_tokens(tokenizer.eos_id) == "<|eot_id|>"
    assert template.after_answer(tokenizer.tokenizer) == "\nanswer: question<|eot_id|>answer"


def test_a_line_break_that_is_an_added_token_ends_no_turn():
    tokenizer = make("gemma", template=GEMMA.replace("'<end_of_turn>", "'\n<end_of_turn>"))
    tokenizer.add_tokens(["\n"])
    wrapped = wrap(tokenizer)
    assert tokenizer.convert_ids_to_tokens(wrapped.eos_id) == "<end_of_turn>"
