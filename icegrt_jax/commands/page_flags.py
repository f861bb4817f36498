"""The flags of the commands that show a page, and of `icegrt run`, which may. Imports no jax."""

import argparse

from icegrt_jax.commands.flags import at_least_0, count, positive

RANK_PORT, CHAT_PORT = 8631, 8632


def page(parser: argparse.ArgumentParser, port: int) -> None:
    """Of a command that shows a page."""
    group = parser.add_argument_group("page", "its token is $ICEGRT_PAGE_TOKEN, else drawn and printed in its address")
    group.add_argument(
        "--host", default="127.0.0.1", metavar="NAME", help="who may connect; 0.0.0.0: all (%(default)s)"
    )
    group.add_argument(
        "--port", type=count, default=port, metavar="N", help="0: any that is free (default %(default)s)"
    )


def run(parser: argparse.ArgumentParser) -> None:
    """Of `icegrt run`."""
    parser.add_argument(
        "--rank", action="store_true", help="between rounds wait for people, at a page; with annotation.by=people"
    )
    page(parser, RANK_PORT)


def rank(parser: argparse.ArgumentParser) -> None:
    """Of `icegrt rank`."""
    parser.epilog = "Several annotators open the same address, each with a name of their own; see docs/rank.md."
    add = parser.add_argument
    add("--records", default="", metavar="PATH", help="a .jsonl file of answers, or a folder of such")
    add("--out", required=True, metavar="DIR", help="where it is all kept; the same command goes on there")
    add("--guideline", default="", metavar="FILE", help="a text beside the answers (default: that of their domain)")
    add("--seed", type=int, default=0, help="of the orders in which they are shown (default 0)")
    add("--again", type=count, default=10, dest="every", metavar="N",
        help="one prompt in N is shown again; 0: none (default 10)")  # fmt: skip
    add("--votes", type=count, default=0, metavar="N", help="people who rank a prompt (default: everybody ranks all)")
    add("--export", action="store_true", dest="only_export", help="write the records and end")
    add("--apart", action="store_true", help="a record for each annotator, in place of one for each prompt")
    page(parser, RANK_PORT)


def chat(parser: argparse.ArgumentParser) -> None:
    """Of `icegrt chat`."""
    add = parser.add_argument
    add("--workdir", required=True, metavar="DIR", help="of a run: its base model, ICE-Instruct, ICE-GRT")
    add("--temperature", type=at_least_0, default=1.0, help="of the sampler; 0 is greedy (default 1.0)")
    add("--max_new_tokens", type=positive(int), default=128, help="longest answer in tokens (default 128)")
    add("--seed", type=int, default=0, help="of what is drawn (default 0)")
    add("--keep", default="", metavar="FILE", help="the .jsonl file of rankings (default DIR/chat/rankings.jsonl)")
    add("--page", action="store_true", help="as a page, in place of the terminal")
    page(parser, CHAT_PORT)
