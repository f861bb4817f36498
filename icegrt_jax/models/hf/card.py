"""Model cards in the format of the Hugging Face hub: README.md, its header for programs and its text for people."""

import pathlib
from collections.abc import Sequence

from icegrt_jax.files import write_text_atomic

CARD = "README.md"
TAG = "icegrt_jax"  # by which a card is known as written here
LANGUAGE_MODEL = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{folder}"  # where this folder is, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
messages = [{{"role": "user", "content": "..."}}]
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
```

In JAX: `import icegrt_jax as ice; model = ice.load_model(folder)`."""
SCORES = """\
```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "{folder}"  # where this folder is, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder)
messages = [{{"role": "user", "content": "..."}}, {{"role": "assistant", "content": "..."}}]
text = tokenizer.apply_chat_template(messages, tokenize=False)
text = text[: text.rindex({end!r}) + len({end!r})]  # it was trained on answers up to there
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
print(model(**inputs).logits[0, 0])
```

The head in the folder has no bias: icegrt_jax adds `icegrt_head_bias` of config.json to this number."""
ADAPTER = """\
```python
from peft import {auto}
from transformers import AutoTokenizer

folder = "{folder}"  # where this folder is, or its name on the hub
model = {auto}.from_pretrained(folder{options})
tokenizer = AutoTokenizer.from_pretrained(model.peft_config["default"].base_model_name_or_path)
```

PEFT opens the base that `base_model_name_or_path` in adapter_config.json names: {base}. Where that moves, change the
key.{more}"""


def write_card(folder: pathlib.Path, title: str, sections: Sequence[tuple[str, str]], **header) -> None:
    """Writes README.md.

    Args:
      folder: of the model.
      title: what it is, in a line.
      sections: heading and text of each.
      header: keys of the hub's `ModelCardData`; what is None is left out.
    """
    # Imported here: only exports need it.
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(**{key: value for key, value in header.items() if value is not None})
    text = "".join(f"\n## {heading}\n\n{body}\n" for heading, body in sections)
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {title}\n{text}")
    write_text_atomic(folder / CARD, card.content)


def is_ours(file: pathlib.Path) -> bool:
    """Whether a README.md was written by `write_card`, so that a newer one may take its place."""
    return f"- {TAG}" in file.read_text(encoding="utf-8", errors="replace").split("\n---\n")[0]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
