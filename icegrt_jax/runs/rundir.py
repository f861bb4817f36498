"""What every stage starts from: the run's folder, mesh, tokenizer, data, and the models of earlier stages."""

import dataclasses
import pathlib
import zlib
from collections.abc import Mapping

import jax
from jax.sharding import Mesh

from icegrt_jax import files
from icegrt_jax.config.options import LengthOptions, Options, Specs
from icegrt_jax.data.host_share import Share
from icegrt_jax.data.records import Record, write_jsonl
from icegrt_jax.data.sources import load_source
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.domains import load as load_domain
from icegrt_jax.hosts import sync
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.runs import own_code
from icegrt_jax.runs.tokenizers import policy_tokenizer
from icegrt_jax.sharding import host_rows
from icegrt_jax.sharding.mesh import make_mesh
from icegrt_jax.training.restore import PartRecord
from icegrt_jax.training.restore import finished as finished_stage

# Each random choice of a run has its own stream: the run's key folded with one of these. From a stream are made either
# the numbers of one choice or the keys of the members of one kind, never both: fold_in(key, i) and split(key)[i] are
# the same key.
STREAMS = {
    "base": 0,  # parameters of a model from scratch
    "sft": 1,
    "reward": 2,  # a reward model's new head, or all of it
    "ppo": 3,  # responses of the rollouts, one key for each sequence of the run
    "evaluate": 4,  # answers; every stage's model draws with the same keys, so that they are compared in pairs
    "rankings": 5,  # answers of ICE-Instruct for the simulated annotators
    "normalize": 6,  # answers of ICE-Instruct on which the scores are normalised
    "sample": 7,
    "adapters": 8,  # one key for each trained role, see `ADAPTERS`
    "minibatches": 9,  # their order, one key for each iteration
    "best_of": 10,  # the n answers that ICE-Reward chooses from
    "pretrain": 11,
    "reward_updates": 12,
    "replay": 13,  # order of the replayed data
}
ADAPTERS = {"policy": 0, "value": 1, "sft": 2, "reward": 3}  # of the stream "adapters"


@dataclasses.dataclass(frozen=True)
class Run:
    """One stage's view of the run."""

    workdir: pathlib.Path
    mesh: Mesh
    tokenizer: ChatTokenizer
    seed: int
    data_dir: str
    lengths: LengthOptions
    rollout_tensor: int  # of the mesh
    own_code: Mapping[str, tuple[str, ...]]  # {stage: FILE.py:NAME of the user's code that it runs}

    def key(self, stream: str) -> jax.Array:
        """The key of one random choice."""
        return jax.random.fold_in(jax.random.key(self.seed), STREAMS[stream])

    def adapter_key(self, name: str) -> jax.Array:
        """The key of one new adapter: "policy", "value", "sft" or "reward"."""
        return jax.random.fold_in(self.key("adapters"), ADAPTERS[name])

    def data_seed(self, stream: str) -> int:
        """The seed of the order of a stage's data: sources of one name in two stages are shuffled differently."""
        return zlib.crc32(f"{self.seed}/{stream}".encode())

    @property
    def share(self) -> Share:
        """What this process does of the data work."""
        rows = lambda size: host_rows.own_rows(self.mesh, size)
        return Share(jax.process_index(), jax.process_count(), rows, sync.exchange)

    def folder(self, stage: str) -> pathlib.Path:
        return self.workdir / stage

    def load(self, specs: Specs, kind: type[Record]) -> dict[str, list[Record]]:
        """The records of each named source."""
        return {
            name: load_source(spec, kind=kind, data_dir=self.data_dir, workdir=str(self.workdir))
            for name, spec in specs.items()
        }


def start(config: Options, workdir: pathlib.Path) -> Run:
    """Makes the mesh, the domain's data and the tokenizer; cheap when they are there."""
    workdir = pathlib.Path(workdir)
    cache = str(workdir / "compile_cache") if config.log.compile_cache else None
    jax.config.update("jax_compilation_cache_dir", cache)
    mesh = make_mesh(**dataclasses.asdict(config.mesh))
    sync.main_first(workdir / "tokenizer", lambda: policy_tokenizer(config, workdir))
    _write_domain(config, workdir)
    return Run(
        workdir, mesh, policy_tokenizer(config, workdir), config.seed, config.data_dir, config.lengths,
        config.mesh.rollout_tensor, own_code.names(config),
    )  # fmt: skip


def _write_domain(config: Options, workdir: pathlib.Path) -> None:
    """The domain's records, once."""
    if not config.domain:
        return
    data = workdir / "data"
    absent = lambda: [name for name in config.domain_sizes if not (data / f"{name}.jsonl").is_file()]
    missing = sync.from_main("the domain's data are looked for", absent)

    def write() -> None:
        own_code.note_data(config.domain, data)
        sets = load_domain(config.domain).build({name: config.domain_sizes[name] for name in missing}, config.seed)
        for name, records in sets.items():
            write_jsonl(data / f"{name}.jsonl", records)

    if missing:
        sync.main_first(data / f"{missing[-1]}.jsonl", write)


def finished(run: Run, stage: str) -> bool:
    """Whether the stage has been completed in this workdir."""
    return sync.from_main(f"{stage} is looked for", (run.folder(stage) / "done.json").is_file)


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
    sync.main_first(path, lambda: files.write_json_atomic(path, done))
