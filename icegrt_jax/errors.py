"""The one exception a user's mistake raises."""


class UserError(ValueError):
    """A mistake the user can mend: a bad file, line, key or shape.

    The message is one sentence or two: what was got, what was expected, what to
    do. The command line prints it as `error: <message>` and exits with status 2.

    >>> try:
    ...     ice.load_model("nowhere")
    ... except ice.UserError as error:
    ...     print(error)
    nowhere: no model here; expected a Hugging Face folder with config.json.
    """
