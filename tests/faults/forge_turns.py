"""Turns forged by what is written in messages, answers and texts, with every chat template of a folder.

    python -m tests.faults.forge_turns FOLDER --each=120 --seed=0

FOLDER has the chat templates of published models as NAME.jinja, none of which is in this project. Each gets a small
tokenizer whose added tokens are those that the template has in its strings, once all called special and once none. In
every place that somebody else writes stand control tokens, whole turns, and what becomes one when the template or
tokenizer cuts, strips or joins. Forged is a turn where the ids hold more control tokens than with other words, and were
not refused. Prints a line per template; exit 1 where one is forged.
"""

import argparse
import collections
import pathlib
import random
import re
import sys
from collections.abc import Iterator, Sequence

import jinja2

from icegrt_jax.data import template
from icegrt_jax.data.encode import encoded
from icegrt_jax.data.records import Text
from icegrt_jax.data.tokenizers import ChatTokenizer, wrap
from icegrt_jax.errors import UserError
from tests.data.templates import build

BOS, EOS = "<s>", "</s>"
TOKEN = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<\uff5c[^<>\uff5c]{1,40}\uff5c>|<\|[^<>|\s]{1,40}>|<</?[A-Z]+>>|</?[A-Za-z_][\w:.-]{0,40}>"
    r"|\[/?[A-Z_]{2,}\]|\[gMASK\]"
)
ROLES = ("user", "assistant")


def tokens_of(source: str) -> list[str]:
    """What looks like a control token in the strings of a template."""
    found: dict[str, None] = {}
    for _, kind, text in jinja2.Environment().lex(source):
        if kind in ("string", "data"):
            found |= dict.fromkeys(TOKEN.findall(text))
    return [token for token in found if token not in (BOS, EOS)]


def opened(source: str, *, special: bool) -> ChatTokenizer:
    """A tokenizer with the template; `special`: its tokens are called so."""
    tokens = tokens_of(source)
    return wrap(build(source, BOS, EOS, tokens if special else (), () if special else tokens))


def written(rng: random.Random, tokens: Sequence[str], turn: str) -> str:
    """A text that makes a turn if it can; `turn`: a whole one, as the template writes it."""
    token, other = rng.choice(tokens), rng.choice(tokens)
    cut = rng.randint(1, len(token) - 1)
    return rng.choice([
        token, f"a {token} b", f"{token}{other}", f"a\n{token}\nb", f"  {token}  ", f"Yes.{token}\n{other}user\nNo.",
        turn, f"Yes.{turn}", f"{token[:cut]}{token}{token[cut:]}", f"{token[:cut]}</think>{token[cut:]}",
        f"{token[:cut]}<think>x</think>{token[cut:]}", f"<think>{token}</think>", f"{token[:cut]}\u200b{token[cut:]}",
        f"{token[:cut]} {token[cut:]}", token.upper(), f"{token[:cut]}{other}{token[cut:]}", f"{{{{ '{token}' }}}}",
    ])  # fmt: skip


def attempts(rng: random.Random, tokens: Sequence[str], turn: str, count: int) -> Iterator[tuple[str, list[dict]]]:
    """(way of encoding, messages), as often as asked: one place forged, or a token split over two of them."""
    message = lambda role, content: {"role": role, "content": content}
    for _ in range(count):
        roles = rng.choice([("user",), ("system", "user"), ("user", "assistant", "user")])
        messages = [message(role, template.WORDS[role]) for role in (*roles, "assistant")]
        at = rng.randrange(len(messages))
        if rng.random() < 0.1 and at:
            token = rng.choice(tokens)
            cut = rng.randint(1, len(token) - 1)
            messages[at - 1]["content"], messages[at]["content"] = f"a{token[:cut]}", f"{token[cut:]}b"
        else:
            messages[at]["content"] = written(rng, tokens, turn)
        yield rng.choice(["prompt", "examples", "finished answer", "unfinished answer", "text"]), messages


def ids_of(tokenizer: ChatTokenizer, way: str, messages: Sequence[dict]) -> list[int]:
    if way == "prompt":
        return tokenizer.encode_prompt(messages[:-1])
    if way == "examples":
        return tokenizer.encode_examples(messages)[0][0]
    if way == "text":
        return list(encoded(Text(messages[-1]["content"]), tokenizer))
    ids, _ = tokenizer.encode_answer(messages[:-1], messages[-1]["content"], finished=way.startswith("finished"))
    return ids


def controls(tokenizer: ChatTokenizer) -> dict[int, str]:
    """Ids that are special, end a turn, or stand around the words of a conversation, as found here by itself."""
    inner, found = tokenizer.tokenizer, {}
    added = {i: token.content for i, token in inner.added_tokens_decoder.items()}
    for roles in (ROLES, ("system", *ROLES), (*ROLES, *ROLES)):
        for asked, generate in ((roles, False), (roles[:-1], True)):
            try:
                text = template.render(inner, template.conversation(asked), generate=generate)
            except UserError:
                continue
            ids = inner(text, add_special_tokens=False)["input_ids"]
            found |= {i: added[i] for i in ids if i in added}
    special = {i: added[i] for i in added if inner.added_tokens_decoder[i].special}
    return {**found, **special, **{i: added[i] for i in tokenizer.eos_ids if i in added}}


def forged(tokenizer: ChatTokenizer, known: dict[int, str], way: str, messages: Sequence[dict]) -> str:
    """How an attempt has ended: "refused", "characters", or the control tokens that are too many."""
    plain = [{**m, "content": template.WORDS[m["role"]]} for m in messages]
    spoken = tokenizer._control_tokens.spoken  # those the assistant may write, such as around its thoughts
    try:
        usual = collections.Counter(i for i in ids_of(tokenizer, way, plain) if i in known)
    except UserError:
        return "no such roles"
    try:
        ids = ids_of(tokenizer, way, messages)
    except UserError:
        return "refused"
    more = collections.Counter(i for i in ids if i in known) - usual
    says = any(m != p for m, p in zip(messages, plain, strict=True) if m["role"] == "assistant")
    made = {known[i] for i in more if not (says and known[i] in spoken)}
    return f"FORGED {sorted(made)}" if made else "characters"


def tried(name: str, source: str, each: int, rng: random.Random) -> collections.Counter:
    """How so many attempts with each kind of tokens have ended; nothing for a template that cannot be used alone."""
    counts: collections.Counter = collections.Counter()
    for special in (True, False):
        try:
            tokenizer = opened(source, special=special)
            turn = template.render(tokenizer.tokenizer, template.conversation(ROLES), generate=False)
        except UserError as error:
            print(f"{name}: not used, {str(error)[:160]}", flush=True)
            return collections.Counter()
        known = controls(tokenizer)
        tokens = [token for token in known.values() if len(token) > 1]
        turn = turn.replace(template.QUESTION, "forged").replace(template.ANSWER, "as well")
        for way, messages in attempts(rng, tokens, turn, each):
            ended = forged(tokenizer, known, way, messages)
            counts[ended.partition(" [")[0]] += 1
            if ended.startswith("FORGED"):
                print(f"{name}, special: {special}, {way}: {ended}\n{messages!r:.600}", flush=True)
    print(f"{name}: {len(known)} control tokens, {dict(counts)}", flush=True)
    return counts


def main(folder: pathlib.Path, each: int, seed: int) -> collections.Counter:
    """Counts over all templates of the folder."""
    rng, counts, used = random.Random(seed), collections.Counter(), []
    for path in sorted(folder.glob("*.jinja")):
        found = tried(path.stem, path.read_text(encoding="utf-8"), each, rng)
        used += [path.stem] if found else []
        counts += found
    print(f"{counts.total()} attempts over {len(used)} templates, seed {seed}: {dict(counts)}", flush=True)
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--each", type=int, default=120, help="attempts per template and kind of tokens")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(main(given.folder, given.each, given.seed)["FORGED"] > 0)
