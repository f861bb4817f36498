"""`icegrt lm-eval`: tasks of lm-evaluation-harness for a model of ours or of Hugging Face's format."""

import json
import pathlib
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable, make_table

from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import tasks as ours
from icegrt_jax.files import write_text_atomic
from icegrt_jax.runs.harness import HarnessModel
from icegrt_jax.training.compile_cache import keep_programs

OURS = pathlib.Path(ours.__file__).parent
RUNS_CODE = "icegrt_humaneval"


def main(
    *,
    checkpoint: str,
    workdir: str,
    stage: str,
    tasks: str,
    include: str,
    limit: int | None,
    fewshot: int | None,
    chat: bool,
    system: str,
    run_code: bool,
    out: str,
    cache: str,
    **model: Any,
) -> None:
    """Prints the harness's table.

    Args:
      checkpoint: path of a model; or
      workdir, stage: a run and the stage whose policy is asked; "" for the newest.
      tasks: names, commas between them: ours, the harness's own, and those in `include`.
      include: a folder of task files; "" for none.
      limit: rows of each task.
      fewshot: examples before a question; None: as the task says.
      chat: asked through the chat template.
      system: a system message.
      run_code: programs that the model writes may be run.
      out: a .json file for the results; rows are written beside it, a file for each task. "" for none.
      cache: folder for what has been compiled; $JAX_COMPILATION_CACHE_DIR goes before it.
      model: of `HarnessModel`: dtype, batch_size, batch_tokens, max_gen_toks, data, fsdp, tensor.
    """
    path = _path(checkpoint, workdir, stage)
    if out and not out.endswith(".json"):
        raise UserError(f"--out={out}; expected a name ending in .json.")
    if system and not chat:
        raise UserError("--system is a message of the chat template; add --chat.")
    if include and not pathlib.Path(include).is_dir():
        raise UserError(f"--include={include}: no folder there; expected one with task files.")
    manager, names = _found(tasks, [str(OURS), *filter(None, [include])])
    if RUNS_CODE in names and not run_code:
        raise UserError(
            f"--tasks: {RUNS_CODE} runs programs that the model writes; read in docs/lm_eval.md what holds them, then "
            "add --run_code."
        )
    keep_programs(pathlib.Path(cache).expanduser())
    given = {name: value for name, value in model.items() if value is not None}
    results = lm_eval.simple_evaluate(
        HarnessModel(path, **given), tasks=names, task_manager=manager, limit=limit, num_fewshot=fewshot,
        apply_chat_template=chat, fewshot_as_multiturn=chat, system_instruction=system or None, log_samples=bool(out),
        confirm_run_unsafe_code=run_code,
    )  # fmt: skip
    assert results is not None  # of the first process, which is the only one
    print(make_table(results))
    if results.get("groups"):
        print(make_table(results, "groups"))
    if out:
        _write(pathlib.Path(out), dict(results))


def _path(checkpoint: str, workdir: str, stage: str) -> str:
    """The model's path."""
    if bool(checkpoint) == bool(workdir) or stage and not workdir:
        raise UserError("expected --checkpoint=PATH, or --workdir=DIR with --stage=STAGE or without.")
    if not checkpoint and not pathlib.Path(workdir, stage).is_dir():
        raise UserError(f"{pathlib.Path(workdir, stage)}: no folder there; expected that of a run and its stage.")
    return checkpoint or str(pathlib.Path(workdir, stage))


def _found(tasks: str, folders: list[str]) -> tuple[TaskManager, list[str]]:
    """What knows the tasks, and their names: each a task's, a group's or a tag's, or a pattern of them."""
    asked = list(filter(None, map(str.strip, tasks.split(","))))
    if not asked:
        raise UserError("--tasks is empty; expected names of tasks, commas between them.")
    manager = TaskManager(include_path=folders, include_defaults=False)
    known = [name for name in manager.all_tasks if "::" not in name]
    if not all(manager.match_tasks([name]) for name in asked):
        manager = TaskManager(include_path=folders)  # reads thousands of files
    for name in asked:
        if not manager.match_tasks([name]):
            raise UserError(
                f"--tasks: there is no task {name!r}; those that need no network are {', '.join(sorted(known))}, "
                "and `lm_eval ls tasks` lists the harness's own."
            )
    return manager, [found for name in asked for found in manager.match_tasks([name])]


def _write(path: pathlib.Path, results: dict[str, Any]) -> None:
    """The results, and of each task its rows with what was asked, answered and scored."""
    written = lambda what, **more: json.dumps(what, default=handle_non_serializable, ensure_ascii=False, **more) + "\n"
    for task, rows in results.pop("samples", {}).items():
        write_text_atomic(path.with_suffix(f".{task.replace('::', '.')}.jsonl"), "".join(map(written, rows)))
    write_text_atomic(path, written(results, indent=2))
    print(f"{path}: results; rows beside it")
