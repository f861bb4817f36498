"""The one exception a user's mistake raises."""

import os
import sysconfig
import traceback

PACKAGE = os.path.dirname(os.path.abspath(__file__))


class UserError(ValueError):
    """A mistake the user can mend: a bad file, line, key or shape.

    The message is one sentence or two: what was got, what was expected, what to
    do. The command line prints it as `error: <message>` and exits with status 2; a notebook shows it below the user's
    own line that led to it.

    >>> try:
    ...     ice.load_model("nowhere")
    ... except ice.UserError as error:
    ...     print(error)
    nowhere: no model here; expected a Hugging Face folder with config.json.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback, which would be a page of our code and that of libraries."""
        lines = traceback.format_list([frame for frame in traceback.extract_tb(self.__traceback__) if _is_own(frame)])
        said = f"\x1b[31m{type(self).__name__}\x1b[39m: {self}"
        return [line.rstrip("\n") for line in [*lines, said, *getattr(self, "__notes__", ())]]


def _is_own(frame: traceback.FrameSummary) -> bool:
    """Whether it is of the user's code, such as a notebook's cell."""
    others = [PACKAGE, *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))]
    return not frame.filename.startswith(("<frozen", *(f"{folder}{os.sep}" for folder in others)))
