"""LoRA adapters in PEFT's folder format: adapter_config.json and adapter_model.safetensors, both ways.

Only what we compute exactly is read: plain LoRA or rsLoRA on the projections of `LORA_TARGETS`, and the score head
of a sequence classifier. The bias of our scalar head, which theirs lacks, is kept in a file of its own.
"""

import pathlib

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from icegrt_jax.errors import UserError
from icegrt_jax.files import read_described, read_json, write_json_atomic
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.finite import check_weights
from icegrt_jax.models.hf import keys
from icegrt_jax.models.hf.folder import new_folder
from icegrt_jax.models.hf.tensors import source_of
from icegrt_jax.models.lora import LoRAConfig
from icegrt_jax.models.tree import abstract_params, flatten, unflatten

WEIGHTS, CONFIG, BIAS = "adapter_model.safetensors", "adapter_config.json", "icegrt_head_bias.json"
PREFIX = "base_model.model."
SCORE = f"{PREFIX}score.weight"
SIDES = {"lora_a": "lora_A", "lora_b": "lora_B"}  # theirs are [r, in] and [out, r]: ours transposed
# What changes the computation and must be absent or have this value.
FIXED = {
    "bias": "none", "fan_in_fan_out": False, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {},
    "lora_bias": False, "layer_replication": None, "trainable_token_indices": None, "target_parameters": None,
    "alora_invocation_tokens": None, "use_qalora": False, "use_bdlora": None, "velora_config": None,
    "monteclora_config": None, "kasa_config": None, "arrow_config": None,
}  # fmt: skip
# Other ways to initialise, such as PiSSA's, change the base's weights as well.
KEEP_THE_BASE = (None, True, False, "gaussian", "orthogonal", "eva")


def save_adapter(path: str | pathlib.Path, adapter: dict, config: ModelConfig, lora: LoRAConfig, base: str) -> None:
    """Writes a folder that PEFT loads; it appears whole or not at all.

    Args:
      path: the folder.
      adapter: the model's tree cut down to `lora_a` and `lora_b`; with a `head` it becomes a sequence classifier's,
        without its bias.
      config: shape of the model.
      lora: how the adapter was made.
      base: name or folder of the model that it belongs to, for `base_model_name_or_path`.
    """
    with new_folder(pathlib.Path(path).expanduser()) as folder:
        write_adapter(folder, adapter, config, lora, base)


def write_adapter(folder: pathlib.Path, adapter: dict, config: ModelConfig, lora: LoRAConfig, base: str) -> None:
    """Writes the files of `save_adapter` into an existing folder."""
    tensors = {}
    for ours, leaf in flatten(adapter).items():
        module, _, name = ours.rpartition("/")
        if name not in SIDES:
            continue
        source = source_of(f"{module}/kernel", config)
        leaf = np.asarray(leaf, np.float32)
        for kernel, part in zip(source.names, leaf if source.stacked else [leaf], strict=True):
            tensors[_name(kernel, name)] = np.ascontiguousarray(part.T)
    scalar = "head" in adapter
    if scalar:
        tensors[SCORE] = np.ascontiguousarray(np.asarray(adapter["head"]["kernel"], np.float32).T)
    targets = {name.split(".")[-3] for name in tensors if name != SCORE}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    if scalar:
        write_json_atomic(folder / BIAS, {"bias": float(adapter["head"]["bias"][0])})
    described = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if scalar else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.rslora,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(targets),
        "modules_to_save": ["score"] if scalar else None,
        "inference_mode": True,
    }
    write_json_atomic(folder / CONFIG, described)
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors lets only its owner read it


def load_adapter(path: str | pathlib.Path, config: ModelConfig) -> tuple[LoRAConfig, dict]:
    """How the adapter in a PEFT folder was made, and its tree for a model of shape `config`.

    Layers that the adapter leaves out get one that changes nothing.
    """
    folder = pathlib.Path(path).expanduser()
    described = _read_config(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except Exception as error:
        raise UserError(f"{folder / WEIGHTS}: cannot be read ({error}); save the adapter as safetensors.") from error
    rank = described["r"]
    abstract = flatten(abstract_params(config, scalar_head=SCORE in tensors))
    leaves: dict[str, np.ndarray] = {}
    used: set[str] = set()
    targets: list = []
    for kernel, leaf in abstract.items():
        module, _, name = kernel.rpartition("/")
        if name != "kernel" or module in ("head", "lm_head"):
            continue
        source = source_of(kernel, config)
        if not any(_name(theirs, "lora_a") in tensors for theirs in source.names):
            continue
        targets.append(module.rpartition("/")[2])
        shapes = {"lora_a": (leaf.shape[-2], rank), "lora_b": (rank, leaf.shape[-1])}
        for side, shape in shapes.items():
            parts = [_side(folder, tensors, _name(theirs, side), shape, used) for theirs in source.names]
            leaves[f"{module}/{side}"] = np.stack(parts) if source.stacked else parts[0]
    if SCORE in tensors:
        used.add(SCORE)
        leaves["head/kernel"] = _checked(folder, SCORE, tensors[SCORE].T, (config.d_model, 1))
        bias = read_json(folder / BIAS)["bias"] if (folder / BIAS).is_file() else 0.0
        leaves["head/bias"] = np.full((1,), bias, np.float32)
    if unexpected := tensors.keys() - used:
        raise UserError(
            f"{folder / WEIGHTS}: {min(unexpected)} has no place in this {config.family} model of {config.num_layers} "
            f"layers; the adapter is for {described.get('base_model_name_or_path') or 'another base'}."
        )
    if not targets:
        raise UserError(f"{folder / WEIGHTS}: holds no LoRA tensor of a projection.")
    lora = LoRAConfig(
        rank=rank,
        alpha=float(described["lora_alpha"]),
        targets=tuple(dict.fromkeys(targets)),
        rslora=bool(described.get("use_rslora")),
    )
    adapter = jax.tree.map(jax.numpy.asarray, unflatten(leaves))
    check_weights(str(folder), adapter)
    return lora, adapter


def _read_config(folder: pathlib.Path) -> dict:
    file, described = folder / CONFIG, read_described(folder, CONFIG, "a folder that PEFT saved")
    if described.get("peft_type") != "LORA":
        raise UserError(f"{file}: peft_type={described.get('peft_type')!r}; expected 'LORA'.")
    for key, value in FIXED.items():
        if described.get(key) not in (None, value):
            raise UserError(f"{file}: {key}={described[key]!r} is not supported; only {value!r} is.")
    if described.get("init_lora_weights") not in KEEP_THE_BASE:
        raise UserError(
            f"{file}: init_lora_weights={described['init_lora_weights']!r} is not supported, as it changes the base "
            "too; convert the adapter to plain LoRA with PEFT first."
        )
    if described.get("modules_to_save") not in (None, [], ["score"]):
        raise UserError(f"{file}: modules_to_save={described['modules_to_save']}; only 'score' is supported.")
    for key in ("r", "lora_alpha"):
        if not described.get(key):
            raise UserError(f"{file}: the key {key!r} is missing.")
    if not keys.is_whole(described["r"], 1, keys.MOST):
        raise UserError(f"{file}: r={repr(described['r']):.80}; expected a whole number above 0.")
    if not keys.is_number(described["lora_alpha"], 0.0):
        raise UserError(f"{file}: lora_alpha={repr(described['lora_alpha']):.80}; expected a number above 0.")
    return described


def _name(kernel: str, side: str) -> str:
    """`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` of the kernel's name and a side."""
    return f"{PREFIX}{kernel.removesuffix('.weight')}.{SIDES[side]}.weight"


def _side(folder: pathlib.Path, tensors: dict, name: str, shape: tuple[int, int], used: set[str]) -> np.ndarray:
    """One matrix in our layout; zeros where the adapter leaves this layer out."""
    if name not in tensors:
        return np.zeros(shape, np.float32)
    used.add(name)
    return _checked(folder, name, tensors[name].T, shape)


def _checked(folder: pathlib.Path, name: str, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if matrix.shape != shape:
        raise UserError(
            f"{folder / WEIGHTS}: {name} is {list(matrix.shape[::-1])}, this model needs {list(shape[::-1])}; "
            "the adapter is for another base."
        )
    return np.ascontiguousarray(matrix, np.float32)
