"""Records to be ranked."""

import json
import pathlib


def write_records(path: pathlib.Path, count: int, answers: int = 4) -> pathlib.Path:
    """Answers as `icegrt sample` writes them."""
    rows = [
        {"prompt": f"question {i}", "responses": [f"answer {k} to {i}" for k in range(answers)], "ranks": [1] * answers}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
