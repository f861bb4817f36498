"""`icegrt chat`: base model, ICE-Instruct and ICE-GRT of a run side by side, in the terminal or on a page."""

import pathlib

from icegrt_jax.commands import POLICY, leaving_models
from icegrt_jax.errors import UserError
from icegrt_jax.pages.chat import terminal, voices
from icegrt_jax.pages.chat.talk import Settings, Talk


def main(
    *, workdir: str, temperature: float, max_new_tokens: int, seed: int, keep: str, page: bool, host: str, port: int
) -> None:
    """Talks until it is ended.

    Args:
      workdir: of the run.
      temperature: to begin with; 0 is greedy.
      max_new_tokens: of an answer, to begin with.
      seed: of what is drawn.
      keep: the .jsonl file that rankings are appended to; "": WORKDIR/chat/rankings.jsonl.
      page: as a page at host and port.
    """
    folder = pathlib.Path(workdir).expanduser()
    kept = pathlib.Path(keep).expanduser() if keep else folder / "chat" / "rankings.jsonl"
    if kept.suffix != ".jsonl":
        raise UserError(f"--keep={keep}; expected a name ending in .jsonl.")
    stages = [(command.name, command.leaves[POLICY].row) for command in leaving_models() if POLICY in command.leaves]
    said, settings = voices.of_run(folder, stages), Settings(temperature, max_new_tokens)
    if page:
        _page(said, settings, kept, host, port, seed)
    else:
        terminal.run(Talk(said, settings, seed), kept)


def _page(said: list, settings: Settings, kept: pathlib.Path, host: str, port: int, seed: int) -> None:
    from icegrt_jax.pages import access, web  # the terminal needs none of the extra `rank`
    from icegrt_jax.pages.chat import app

    tokens, opened = access.tokens({}), web.listen(host, port)
    print(f"open {web.address(opened, tokens[access.USER])}; Ctrl-C ends it", flush=True)
    web.serve(app.Pages(said, settings, kept, seed).app(tokens), opened)
