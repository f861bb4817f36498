"""The models that finished stages left in a workdir, put together from what each of them keeps.

A stage that trained all of a role's parameters keeps them. One that trained an adapter or a head keeps that
alone, and `done.json` says what it is put onto: an earlier stage's model or a Hugging Face folder.
"""

import dataclasses
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh

from icegrt_jax import files, sums
from icegrt_jax.config.choices import Kept
from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.finite import check_weights
from icegrt_jax.models.heads import init_params, new_head, trunk
from icegrt_jax.models.hf.folder import load_hf
from icegrt_jax.models.hf.peft import load_adapter
from icegrt_jax.models.lora import LoRAConfig, init_adapter, merged
from icegrt_jax.models.members import Members, stacked
from icegrt_jax.models.quantize import stored_as
from icegrt_jax.sharding.rules import tree_shardings
from icegrt_jax.training.checkpoints import Checkpoints

BEST = "best"  # folder of a stage's best checkpoint, beside `checkpoints`
AVERAGE = "average"  # and of an average of its policies, which is the one it leaves
SCALAR_ROLES = ("value", "reward")


@dataclasses.dataclass(frozen=True)
class PartRecord:
    """How `done.json` describes a role of which only a part was trained.

    Attributes:
      lora: of its adapter; None where the part is a head only.
      base: {"stage", "role"} or {"path": a Hugging Face folder}, with "adapter": a PEFT folder merged into it.
      base_dtype: as which the base was stored while the part was trained: float32, bfloat16 or int8.
    """

    lora: LoRAConfig | None
    base: dict[str, str]
    base_dtype: str = "float32"

    @classmethod
    def from_json(cls, record: dict) -> "PartRecord":
        lora = record["lora"]
        return cls(None if lora is None else LoRAConfig(**lora), record["base"], record["base_dtype"])


def is_finished(folder: pathlib.Path) -> bool:
    """Whether a stage has finished, for who does without it; refuses one that had and has lost what says so."""
    if (folder / "done.json").is_file():
        return True
    sums.check_there(folder / "done.json")
    return False


def finished(folder: pathlib.Path) -> dict:
    """What the finished stage in `folder` says of itself."""
    if not (folder / "done.json").is_file():
        raise UserError(f"{folder}: the {folder.name} stage has not finished; run `icegrt {folder.name}` first.")
    return files.read_json(folder / "done.json")


def load_role(
    folder: pathlib.Path, role: str, mesh: Mesh | None = None, use: Kept | None = None
) -> tuple[ModelConfig, Any]:
    """Shape and complete float32 parameters of a role as the stage in `folder` left it.

    Of several reward models they are `models.members.Members`, adapters put onto their base.

    Args:
      folder: of a finished stage.
      role: policy, value or reward.
      mesh: where the parameters go; by default the first device.
      use: its last or its best checkpoint; by default the one that its config says, or the average that it has left.
    """
    config, own, record = load_own(folder, role, mesh, use)
    if record is None:
        return config, own
    base = stored_as(load_base(folder, config, record, mesh), record.base_dtype)
    if isinstance(own, Members):
        return config, own.replace(base=base, lora=record.lora)
    whole = merged(base, own, record.lora)
    return config, {**trunk(whole), "head": whole["head"]} if role in SCALAR_ROLES else whole


def load_own(
    folder: pathlib.Path, role: str, mesh: Mesh | None = None, use: Kept | None = None
) -> tuple[ModelConfig, Any, PartRecord | None]:
    """Shape, the tree that was trained, and the record of what it is put onto (None: nothing, it is complete).

    Of several reward models the tree is `models.members.Members` of those trees.
    """
    done = finished(folder)
    if role not in done["models"]:
        raise UserError(f"{folder}: holds {', '.join(done['models'])}, no {role}.")
    config = ModelConfig(**done["models"][role])
    record = done.get("parts", {}).get(role)
    record = None if record is None else PartRecord.from_json(record)
    scalar, kept = role in SCALAR_ROLES, use or done.get("use") or "last"
    if kept == AVERAGE and record is not None and "lora" in done[AVERAGE]:  # of reward models' adapters
        record = dataclasses.replace(record, lora=LoRAConfig(**done[AVERAGE]["lora"]))
    members = done.get("ensemble", 1) if kept != AVERAGE else 1
    abstract = jax.eval_shape(lambda: _like_stored(config, record, scalar, members))
    if mesh is not None:
        abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, tree_shardings(abstract, mesh)
        )
    if kept == "best" and "best" not in done:
        raise UserError(f"{folder}: has kept no best checkpoint; its config is to name a number in {folder.name}.best.")
    with Checkpoints(folder / {"last": "checkpoints", "best": BEST}.get(kept, AVERAGE)) as checkpoints:
        step = done["step"] if kept == "last" else done[kept]["step"]
        restored = checkpoints.restore({"params": {role: abstract}}, step, partial=True)
    own = restored["params"][role]
    check_weights(f"{folder}, step {step}", own)
    return config, own, record


def _like_stored(config: ModelConfig, record: PartRecord | None, scalar: bool, members: int = 1) -> Any:
    if members > 1:
        return Members(stacked([_like_stored(config, record, scalar)] * members))
    key = jax.random.key(0)
    if record is None:
        return init_params(key, config, scalar_head=scalar)
    head = new_head(key, config) if scalar else None
    if record.lora is None:
        return {"head": head}
    return init_adapter(key, init_params(key, config, scalar_head=scalar), record.lora, head=head)


def load_base(folder: pathlib.Path, config: ModelConfig, record: PartRecord, mesh: Mesh | None) -> dict:
    """The float32 tree that the part in `folder` is put onto."""
    if "stage" in record.base:
        base = load_role(folder.parent / record.base["stage"], record.base["role"], mesh)[1]
        return base.whole(0) if isinstance(base, Members) else base  # a critic starts as the first reward model
    shardings = None if mesh is None else lambda tree: tree_shardings(tree, mesh)
    params = load_hf(record.base["path"], scan_layers=config.scan_layers, dtype=config.dtype, shardings=shardings)[1]
    return with_peft(config, params, record.base.get("adapter", ""))


def with_peft(config: ModelConfig, params: dict, folder: str) -> dict:
    """The parameters with the adapter in PEFT's `folder` merged in; as they are where none is named ("")."""
    if not folder:
        return params
    lora, adapter = load_adapter(folder, config)
    if "head" in adapter and "head" not in params:
        raise UserError(f"{folder}: the adapter of a sequence classifier, the base is a language model; use another.")
    return merged(params, adapter, lora)
