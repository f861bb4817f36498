"""What a stage says of its data and programs, and writes beside its checkpoints."""

import json
import textwrap
from collections.abc import Iterable, Sequence

from icegrt_jax import files
from icegrt_jax.data import audit as data_audit
from icegrt_jax.data import losses
from icegrt_jax.data.pipeline import Batch, Batches
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.runs import own_code, provenance
from icegrt_jax.runs.rundir import Run
from icegrt_jax.training.compiles import Compiles

AUDITED = 4  # batches looked at before a stage begins


def write_report(run: Run, stage: str, report: dict) -> None:
    """Counts of what the data pipeline kept, cut and dropped: to a file and to the log."""
    if not sync.is_main():
        return
    if code := own_code.fingerprints(run.own_code.get(stage, ())):
        report = {**report, "code": code}
    data = provenance.record(run.readings, run.data_dir, run.workdir)
    files.write_json_atomic(run.folder(stage) / "data.json", {**report, **({provenance.NAME: data} if data else {})})
    for line in provenance.lines(stage, data):
        print(line, flush=True)
    for name, counts in report.items():
        print(f"{stage}  data {name}: {json.dumps(counts)[1:-1]}".replace('"', ""), flush=True)
    warn_of_losses(stage, report)


def warn_of_losses(stage: str, report: dict) -> None:
    """Says where much of a source was cut or dropped."""
    for name, counts in report.items():
        if "records" in counts:
            warn(stage, losses.warnings(f"source {name}", counts, "the length"))


def warn(stage: str, lines: Iterable[str]) -> None:
    """Prints warnings, each a line of its own, once however many hosts there are."""
    for line in lines if sync.is_main() else ():
        print(f"{stage}  warning: {line}", flush=True)


def write_compiles(run: Run, stage: str, compiles: Compiles) -> None:
    """How many programs the stage's loop compiled and how long that took, this process only."""
    if sync.is_main():
        files.write_json_atomic(run.folder(stage) / "compiles.json", compiles.summary())


def audit(
    run: Run, stage: str, batches: Batches | Sequence[Batch], tokenizer: ChatTokenizer, *, cut=False, name="example"
) -> None:
    """Stops the stage if its batches must not be trained on; else prints one example and writes it to NAME.txt.

    Args:
      batches: what the stage is about to read.
      tokenizer: the one they were made with.
      cut: overlong rows may have lost their end.
    """
    text = checked_example(stage, batches, tokenizer, cut=cut)
    if not sync.is_main():
        return
    files.write_text_atomic(run.folder(stage) / f"{name}.txt", text + "\n")
    head, _, example = text.partition("\n")
    print(f"{stage}  {name}: {head}\n{textwrap.indent(data_audit.shorten(example), '    ')}", flush=True)


def checked_example(stage: str, batches: Batches | Sequence[Batch], tokenizer: ChatTokenizer, *, cut=False) -> str:
    """One example as the model reads it; refuses batches that must not be trained on."""
    count = min(AUDITED, len(batches)) if isinstance(batches, Sequence) else AUDITED
    try:
        return [data_audit.check(batches[step], tokenizer, cut=cut) for step in range(count)][0]
    except UserError as error:
        raise UserError(f"{stage}: {error}") from error
