"""What every stage starts from: the run's folder, mesh, tokenizer, data, and the models of earlier stages."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from icegrt_jax import files, sums
from icegrt_jax.config.options import LengthOptions, MeshOptions, OriginOptions, RecordOptions, Specs
from icegrt_jax.data.records import Kind, write_jsonl
from icegrt_jax.data.sources import load_source
from icegrt_jax.domains import load as load_domain
from icegrt_jax.hosts import sync
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.runs import kept, own_code, provenance
from icegrt_jax.runs.reading import Reading
from icegrt_jax.runs.session import Session
from icegrt_jax.runs.tokenizers import policy_tokenizer
from icegrt_jax.sharding.mesh import make_mesh
from icegrt_jax.training.compile_cache import keep_programs
from icegrt_jax.training.restore import PartRecord, is_finished
from icegrt_jax.training.restore import finished as finished_stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Session):
    """One stage's view of the run: a session with a folder."""

    workdir: pathlib.Path
    own_code: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # {stage: FILE.py:NAME, ...}
    readings: Sequence[Reading] = ()  # what the stage reads

    def data(self, stage: str) -> provenance.Record:
        """The sources of the stage with their fingerprints: as it began with them, or where it has made them since."""
        return {
            **provenance.record(self.readings, self.data_dir, self.workdir), **provenance.begun(self.folder(stage))
        }  # fmt: skip

    def folder(self, stage: str) -> pathlib.Path:
        return self.workdir / stage

    def keep(self, stage: str) -> kept.Place:
        """Where answers are kept until the stage is finished."""
        return kept.place(self.folder(stage))

    def load(self, specs: Specs, kind: type[Kind]) -> dict[str, Sequence[Kind]]:
        """The records of each named source."""
        return {
            name: load_source(spec, kind=kind, data_dir=self.data_dir, workdir=str(self.workdir))
            for name, spec in specs.items()
        }


def start(
    origin: OriginOptions, lengths: LengthOptions, mesh: MeshOptions, workdir: pathlib.Path, *, compile_cache: bool
) -> Run:
    """Makes the mesh, the domain's data and the tokenizer; cheap when they are there.

    Args:
      compile_cache: compiled programs are kept, in the workdir unless the user has a folder for all runs.
    """
    workdir = pathlib.Path(workdir)
    keep_programs(workdir / "compile_cache" if compile_cache else None)
    devices = make_mesh(**dataclasses.asdict(mesh))
    sync.main_first(workdir / "tokenizer", lambda: policy_tokenizer(origin, workdir))
    _write_domain(origin, workdir)
    return Run(
        workdir=workdir,
        mesh=devices,
        tokenizer=policy_tokenizer(origin, workdir),
        seed=origin.seed,
        data_dir=origin.data_dir,
        lengths=lengths,
        rollout_tensor=mesh.rollout_tensor,
    )


def _write_domain(records: RecordOptions, workdir: pathlib.Path) -> None:
    """The domain's records, once."""
    if not records.domain:
        return
    data = workdir / "data"
    absent = lambda: [name for name in records.domain_sizes if not (data / f"{name}.jsonl").is_file()]
    missing = sync.from_main("the domain's data are looked for", absent)

    def write() -> None:
        own_code.note_data(records.domain, data)
        sizes = {name: records.domain_sizes[name] for name in missing}
        for name, made in load_domain(records.domain).build(sizes, records.seed).items():
            write_jsonl(data / f"{name}.jsonl", made)

    if missing:
        sync.main_first(data / f"{missing[-1]}.jsonl", write)


def finished(run: Run, stage: str) -> bool:
    """Whether the stage has been completed in this workdir."""
    return sync.from_main(f"{stage} is looked for", (run.folder(stage) / "done.json").is_file)


def known_finished(run: Run, stage: str) -> bool:
    """As `finished`, for who does without a stage that is not; refuses one that had and has lost what says so."""
    return finished(run, stage) or is_finished(run.folder(stage))


def require(workdir: pathlib.Path, stage: str, *earlier: str) -> None:
    """Refuses to begin `stage` while one of the `earlier` ones is not finished; called before `start`."""
    if not (pathlib.Path(workdir) / stage / "done.json").is_file():
        for name in earlier:
            finished_stage(pathlib.Path(workdir) / name)


def finish(
    run: Run,
    stage: str,
    *,
    step: int,
    models: dict[str, ModelConfig],
    parts: dict[str, PartRecord] | None = None,
    **info,
) -> None:
    """Marks the stage complete; nothing is written to its checkpoints afterwards.

    Args:
      models: the roles that its checkpoint holds.
      parts: of which of them only a part, and what it is put onto.
    """
    shapes = {role: dataclasses.asdict(config) for role, config in models.items()}
    records = {role: dataclasses.asdict(record) for role, record in (parts or {}).items()}
    code = own_code.fingerprints(run.own_code.get(stage, ()))
    parts_and_code = {name: value for name, value in (("parts", records), ("code", code)) if value}
    done = {"step": step, "models": shapes, **parts_and_code, **info}
    path = run.folder(stage) / "done.json"

    def write():
        sums.settle(path.parent)
        kept.forget(path.parent)
        data = run.data(stage)
        files.write_json_atomic(path, {**done, **({"data": data} if data else {})})

    sync.main_first(path, write)
