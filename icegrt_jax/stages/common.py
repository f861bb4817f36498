"""What every stage starts from: the run's folder, mesh, tokenizer, data, and the models of earlier stages."""

import dataclasses
import json
import pathlib
import textwrap
import zlib
from collections.abc import Iterable, Sequence

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from icegrt_jax import files
from icegrt_jax.data import audit as data_audit
from icegrt_jax.data import losses
from icegrt_jax.data.adreview import build
from icegrt_jax.data.pipeline import Batch, Batches
from icegrt_jax.data.records import Record
from icegrt_jax.data.shares import Share
from icegrt_jax.data.sources import load_source
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import init_params
from icegrt_jax.models.hf import load_hf
from icegrt_jax.models.hf_config import read_hf_config, to_model_config
from icegrt_jax.models.hub import local_folder
from icegrt_jax.models.lora import LoRAConfig
from icegrt_jax.models.tree import abstract_params
from icegrt_jax.models.vocabulary import check_tokenizer
from icegrt_jax.parallel import hosts
from icegrt_jax.parallel.mesh import check_batch, make_mesh
from icegrt_jax.parallel.sharding import tree_shardings
from icegrt_jax.stages.tokenizers import policy_tokenizer
from icegrt_jax.training.compiles import Compiles
from icegrt_jax.training.optimizers import OptimizerConfig
from icegrt_jax.training.stored import PartRecord, load_role, with_peft
from icegrt_jax.training.stored import finished as finished_stage

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
AUDITED = 4  # batches looked at before a stage begins


@dataclasses.dataclass(frozen=True)
class Run:
    """One stage's view of the run."""

    config: ConfigDict
    workdir: pathlib.Path
    mesh: Mesh
    tokenizer: ChatTokenizer

    def key(self, stream: str) -> jax.Array:
        """The key of one random choice."""
        return jax.random.fold_in(jax.random.key(self.config.seed), STREAMS[stream])

    def adapter_key(self, name: str) -> jax.Array:
        """The key of one new adapter, see `ADAPTERS`."""
        return jax.random.fold_in(self.key("adapters"), ADAPTERS[name])

    def data_seed(self, stream: str) -> int:
        """The seed of the order of a stage's data: sources of one name in two stages are shuffled differently."""
        return zlib.crc32(f"{self.config.seed}/{stream}".encode())

    @property
    def share(self) -> Share:
        """What this process does of the data work."""
        rows = lambda size: hosts.own_rows(self.mesh, size)
        return Share(jax.process_index(), jax.process_count(), rows, hosts.exchange)

    def folder(self, stage: str) -> pathlib.Path:
        return self.workdir / stage

    def load(self, specs: ConfigDict, kind: type[Record]) -> dict[str, list[Record]]:
        """The records of each named source."""
        return {
            name: load_source(spec, kind=kind, data_dir=self.config.data_dir, workdir=str(self.workdir))
            for name, spec in specs.items()
        }


def check_batches(config: ConfigDict, workdir: pathlib.Path, *stages: str) -> None:
    """Refuses a mesh that does not fit, or over which a batch of a stage still to be run does not divide.

    Called before `start`: nothing has been written yet.
    """
    mesh = make_mesh(**config.mesh)
    for stage in stages:
        if (pathlib.Path(workdir) / stage / "done.json").is_file():
            continue
        check_batch(f"{stage}.batch_size", config[stage].batch_size, mesh)
        check_batch(f"{stage}.microbatch", config[stage].microbatch, mesh)
        if stage == "ppo":
            check_batch("ppo.score_batch", config.ppo.score_batch, mesh)
            check_batch("ppo.rollout_slots", config.ppo.rollout_slots, mesh)
            check_minibatches(config.ppo, mesh)


def check_minibatches(ppo: ConfigDict, mesh: Mesh) -> None:
    """Refuses minibatches of responses or of replay that do not divide over the mesh."""
    rows, parts = ppo.batch_size * ppo.samples_per_prompt, ppo.num_minibatches
    if ppo.ptx.coef:
        check_batch("ppo.ptx.batch_size", ppo.ptx.batch_size, mesh)
        check_batch("ppo.ptx.batch_size / num_minibatches", ppo.ptx.batch_size // parts, mesh)
        blocks = max(rows // parts // ppo.microbatch, 1) if ppo.microbatch else 1
        replay = ppo.ptx.batch_size // parts // blocks
        check_batch("ppo.ptx.batch_size / num_minibatches, for each ppo.microbatch", replay, mesh)
    check_batch("ppo.batch_size * samples_per_prompt / num_minibatches", rows // parts, mesh)


def start(config: ConfigDict, workdir: pathlib.Path) -> Run:
    """Makes the mesh, the embedded domain's data and the tokenizer; cheap when they are there."""
    workdir = pathlib.Path(workdir)
    cache = str(workdir / "compile_cache") if config.log.compile_cache else None
    jax.config.update("jax_compilation_cache_dir", cache)
    mesh = make_mesh(**config.mesh)
    hosts.main_first(workdir / "tokenizer", lambda: policy_tokenizer(config, workdir))
    _write_domain(config, workdir)
    return Run(config, workdir, mesh, policy_tokenizer(config, workdir))


def _write_domain(config: ConfigDict, workdir: pathlib.Path) -> None:
    """The embedded domain's records, once."""
    if config.domain != "adreview":
        return
    data = workdir / "data"
    absent = lambda: [name for name in config.domain_sizes if not (data / f"{name}.jsonl").is_file()]
    missing = hosts.from_main("the embedded domain's data are looked for", absent)
    if missing:
        sizes = {name: config.domain_sizes[name] for name in missing}
        hosts.main_first(data / f"{missing[-1]}.jsonl", lambda: build.write(data, build.build(config.seed, sizes)))


def optimizer_config(section: ConfigDict, total_steps: int) -> OptimizerConfig:
    """An optimizer section of the config, with the length of its schedule."""
    return OptimizerConfig(total_steps=total_steps, **section)


def scratch_config(section: ConfigDict, vocab_size: int, max_length: int) -> ModelConfig:
    """The shape described by a model section of the config."""
    shape = {k: v for k, v in section.items() if k not in ("path", "hf_config", "adapter", "param_dtype")}
    return ModelConfig(vocab_size=vocab_size, max_length=max_length, **shape)


def folder_config(section: ConfigDict) -> ModelConfig:
    """Shape of the model at `model.path` from its config.json alone; no weights are looked at.

    Where the path is not here `model.hf_config` stands for it: a run can be planned before its model is fetched.
    """
    here = pathlib.Path(section.path).expanduser().exists()
    return _config_in(section.path if here or not section.hf_config else section.hf_config, section)


def _config_in(path: str, section: ConfigDict) -> ModelConfig:
    folder = local_folder(path)
    config = to_model_config(read_hf_config(folder), folder, scan_layers=section.scan_layers, dtype=section.dtype)
    return dataclasses.replace(config, remat=section.remat, attention=section.attention)


def _check_planned(section: ConfigDict) -> None:
    """Refuses a model whose parameters have other shapes than `model.hf_config` says: a plan was of another model."""
    planned, found = (_config_in(path, section) for path in (section.hf_config, section.path))
    if abstract_params(planned) != abstract_params(found):
        raise UserError(
            f"model.hf_config={section.hf_config!r} describes another model than model.path={section.path!r} "
            f"({planned.num_params:,} and {found.num_params:,} parameters); name its own config.json, or leave "
            "model.hf_config empty."
        )


def base_model(run: Run) -> tuple[ModelConfig, dict]:
    """The model before the run's first stage: from a Hugging Face folder or newly initialised."""
    section = run.config.model
    if section.path:
        if section.hf_config:
            _check_planned(section)
        check_tokenizer(run.tokenizer, _config_in(section.path, section).vocab_size, f"model.path={section.path!r}")
        config, params = load_folder(run, section.path, section)
        if "head" in params:
            raise UserError(f"model.path={section.path!r} holds a reward model; expected a language model.")
        return config, with_peft(config, params, section.adapter)
    length = run.config.max_prompt_length + run.config.max_response_length
    config = scratch_config(section, run.tokenizer.vocab_size, length)
    return config, placed_init(run, config, run.key("base"))


def load_folder(run: Run, path: str, section: ConfigDict) -> tuple[ModelConfig, dict]:
    """The model of a Hugging Face folder, read to where it will live; it has a scalar `head` if theirs has one."""
    config, params = load_hf(
        path,
        scan_layers=section.scan_layers,
        dtype=section.dtype,
        shardings=lambda tree: tree_shardings(tree, run.mesh),
    )
    return dataclasses.replace(config, remat=section.remat, attention=section.attention), params


def placed_init(run: Run, config: ModelConfig, key: jax.Array, *, scalar_head: bool = False) -> dict:
    """New parameters, made where they will live."""

    def init(key):
        return init_params(key, config, scalar_head=scalar_head)

    return jax.jit(init, out_shardings=tree_shardings(jax.eval_shape(init, key), run.mesh))(key)


def stage_params(run: Run, stage: str, role: str) -> tuple[ModelConfig, dict]:
    """Shape and complete float32 parameters of one role as `stage` left them."""
    done = finished_stage(run.folder(stage))
    if role in done["models"] and done.get("same_tokenizer", True):
        check_tokenizer(run.tokenizer, done["models"][role]["vocab_size"], f"{run.folder(stage)} with the run's own")
    return load_role(run.folder(stage), role, run.mesh)


def lora_config(section: ConfigDict) -> LoRAConfig | None:
    """The adapter that a `lora` section of the config describes; None where its rank is 0."""
    return LoRAConfig(section.rank, section.alpha, tuple(section.targets), section.rslora) if section.rank else None


def finished(run: Run, stage: str) -> bool:
    """Whether the stage has been completed in this workdir."""
    return hosts.from_main(f"{stage} is looked for", (run.folder(stage) / "done.json").is_file)


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
    done = {"step": step, "models": shapes, **({"parts": records} if records else {}), **info}
    path = run.folder(stage) / "done.json"
    hosts.main_first(path, lambda: files.write_json_atomic(path, done))


def policy_before(run: Run, stage: str) -> tuple[ModelConfig, dict]:
    """The policy that `stage` starts from: the latest finished one before it, or the base model."""
    for earlier in {"sft": ("pretrain",), "pretrain": ()}[stage]:
        if run.config[earlier].steps:
            return stage_params(run, earlier, "policy")
    return base_model(run)


def before_sft(run: Run) -> dict[str, str]:
    """Where the model that ICE-Instruct starts from is kept, as a `PartRecord` says it."""
    if run.config.pretrain.steps:
        return {"stage": "pretrain", "role": "policy"}
    return kept_path(run.config.model.path, run.config.model.adapter)


def kept_path(path: str, adapter: str = "") -> dict[str, str]:
    """A Hugging Face folder as a `PartRecord` says it: found again from any working directory.

    Of a hub name it is the downloaded snapshot: the hub may have other weights tomorrow.
    """
    kept = {"path": str(local_folder(path).absolute())}
    return {**kept, "adapter": str(pathlib.Path(adapter).expanduser().absolute())} if adapter else kept


def write_report(run: Run, stage: str, report: dict) -> None:
    """Counts of what the data pipeline kept, cut and dropped: to a file and to the log."""
    if not hosts.is_main():
        return
    files.write_json_atomic(run.folder(stage) / "data.json", report)
    for name, counts in report.items():
        print(f"{stage}  data {name}: {json.dumps(counts)[1:-1]}".replace('"', ""), flush=True)
        if "records" in counts:
            warn(stage, losses.warnings(f"source {name}", counts, "the length"))


def warn(stage: str, lines: Iterable[str]) -> None:
    """Prints warnings, each a line of its own, once however many hosts there are."""
    for line in lines if hosts.is_main() else ():
        print(f"{stage}  warning: {line}", flush=True)


def write_compiles(run: Run, stage: str, compiles: Compiles) -> None:
    """How many programs the stage's loop compiled and how long that took, this process only."""
    if hosts.is_main():
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
    count = min(AUDITED, len(batches)) if isinstance(batches, Sequence) else AUDITED
    try:
        texts = [data_audit.check(batches[step], tokenizer, cut=cut) for step in range(count)]
    except UserError as error:
        raise UserError(f"{stage}: {error}") from error
    if not hosts.is_main():
        return
    files.write_text_atomic(run.folder(stage) / f"{name}.txt", texts[0] + "\n")
    head, _, example = texts[0].partition("\n")
    print(f"{stage}  {name}: {head}\n{textwrap.indent(data_audit.shorten(example), '    ')}", flush=True)
