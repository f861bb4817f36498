"""Every option of a run with its default, and the checks made before any device is touched.

A file in `configs/` starts from `default_config()` and sets what differs; nothing has a default
anywhere else. The file is locked, so a misspelt key is an error.
"""

import math

from ml_collections import ConfigDict

from icegrt_jax.configuration import flatten
from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ATTENTIONS
from icegrt_jax.penalty import check_penalty

JUDGES = ("", "adreview", "choice", "exact", "overlap")
DOMAINS = ("", "adreview")
# Of `models.lora`, which needs jax.
LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
PARAM_DTYPES = ("float32", "bfloat16", "int8")
CACHE_DTYPES = ("compute", "int8")
REMATS = ("none", "dots", "full")
SCHEDULES = ("constant", "linear", "cosine")  # of `training.optimizers`, which needs jax


def optimizer(lr: float, **changes) -> ConfigDict:
    """One role's AdamW, see `training.optimizers.OptimizerConfig`."""
    values = {
        "lr": lr,
        "warmup_steps": 0,  # updates
        "schedule": "constant",  # constant, linear or cosine
        "final_lr_fraction": 0.0,
        "b1": 0.9,
        "b2": 0.95,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,  # 0: no limit
    }
    return ConfigDict({**values, **changes})


def named(**values) -> ConfigDict:
    """A group whose names are the user's, such as {source: "FORMAT:PATH"}: config files add to it."""
    return ConfigDict(values)


def _supervised() -> ConfigDict:
    c = ConfigDict()
    c.steps = 0  # updates; 0 skips the stage
    c.batch_size = 16  # rows per update, all devices
    c.microbatch = 0  # rows of it differentiated at a time, gradients added up: less memory, same update; 0: all
    c.length = 256  # tokens per row
    c.packing = True
    c.overlong = "drop"  # conversations longer than a row: drop or cut
    c.sources = named()
    c.weights = named()  # {source: share of the tokens}
    c.optimizer = optimizer(1e-3)
    return c


def _lora() -> ConfigDict:
    """An adapter trained in place of all parameters, see `models.lora.LoRAConfig`."""
    c = ConfigDict()
    c.rank = 0  # 0: all parameters are trained
    c.alpha = 16.0
    c.targets = LORA_TARGETS  # projections that get one
    c.rslora = False  # scale alpha / sqrt(rank) instead of alpha / rank
    return c


def _shape() -> ConfigDict:
    """Of a decoder trained from scratch, see `models.config.ModelConfig`."""
    c = ConfigDict()
    c.d_model, c.num_layers, c.d_ff = 128, 4, 384
    c.num_heads, c.num_kv_heads, c.head_dim = 4, 2, 32
    c.rope_theta, c.norm_eps, c.tie_embeddings = 10000.0, 1e-5, True
    c.init_std = 0.02  # of a new embedding
    c.scan_layers = False  # stack the layers and scan: for deep models
    c.remat = "none"  # what the backward pass computes again: none, dots (all but products with weights) or full
    c.dtype = "float32"  # of the computation; bfloat16 on TPU and GPU
    c.attention = "auto"  # over whole rows: plain, splash (TPU) or cudnn (GPU); auto: the fastest that there is
    return c


def _model() -> ConfigDict:
    c = _shape()
    c.path = ""  # Hugging Face folder or name on the hub, whose shape replaces this one; empty: trained from scratch
    c.hf_config = ""  # folder with the config.json of model.path, for `icegrt plan` where the model itself is not here
    c.adapter = ""  # a folder that PEFT saved, a LoRA adapter of model.path: merged into it when it is loaded
    c.param_dtype = "float32"  # of frozen trees: float32, bfloat16, int8 (under adapters); what is trained is float32
    return c


def _reward() -> ConfigDict:
    c = ConfigDict()
    c.init = "sft"  # sft (ICE-Instruct's trunk), scratch (shape in reward.model) or a Hugging Face folder
    c.model = _shape()  # when init is "scratch"; of a folder's model only how it is computed: scan_layers to attention
    c.steps = 0  # updates; 0 skips the stage, but a folder in reward.init is then used as it is
    c.batch_size = 16  # prompts per update, each with all its answers
    c.microbatch = 0  # of them at a time, as sft.microbatch
    c.length = 256  # tokens of prompt and answer
    c.overlong = "drop"  # answers too long: drop or cut
    c.sources, c.weights = named(), named()
    c.heldout = named()  # rankings for accuracy and calibration
    c.heldout_limit = 0  # rankings per held-out source; 0: all
    c.optimizer = optimizer(3e-4)
    c.lora = _lora()
    c.on_policy_k = 5  # answers per prompt sampled from ICE-Instruct and ranked by the simulated annotators; 0: none
    c.score_length = 0  # tokens of prompt and answer that it scores with a tokenizer of its own; 0: as length
    c.normalize_on = 256  # ICE-Instruct answers on which mean and spread of the scores are fitted
    return c


def _ppo() -> ConfigDict:
    c = ConfigDict()
    c.iterations = 0  # 0 skips the stage
    c.batch_size = 64  # prompts per iteration, all devices
    c.samples_per_prompt = 1
    c.num_ppo_epochs = 1
    c.num_minibatches = 1
    c.microbatch = 0  # responses of a minibatch at a time, as sft.microbatch
    c.score_batch = 0  # responses scored at a time: less memory, same scores; 0: all
    c.pack = True  # short responses share a row where they are scored and learned from: less work, same update
    c.sources, c.weights = named(), named()
    c.rollout_slots = 0  # responses in flight, others wait for a free slot; 0: all at once. Changes no response
    c.cache_dtype = "compute"  # of keys and values while sampling, or int8: log-probs then differ from the trainer's
    c.judge = ""  # measures the rollouts for the curves; never seen by the training
    c.temperature, c.top_k, c.top_p, c.min_p = 1.0, 0, 1.0, 0.0  # log-probs are of the full softmax at this temperature
    c.gamma, c.lam = 1.0, 0.95
    c.cliprange = 0.2
    c.cliprange_high = 0.0  # 0: the same as cliprange
    c.cliprange_value = 0.2  # 0: no clipping
    c.dual_clip = 0.0  # 0: off
    c.value_warmup = 0  # iterations in which only the critic learns
    c.kl = ConfigDict()
    c.kl.kind = "k1"  # in the reward; in the loss exact, k2 (its gradient, from samples) or k3 (that of KL(ref || π))
    c.kl.into = "reward"  # or loss, with another kind
    c.kl.coef = 0.05
    c.kl.adaptive = True
    c.kl.target = 6.0  # nats per response
    c.kl.band = (0.5, 1.5)  # of the target: where the run is expected to end
    c.kl.horizon = 2000.0  # responses
    c.kl.early_stop = 0.0  # approx_kl of a minibatch that ends the iteration's updates; 0: off
    c.score = ConfigDict()
    c.score.scale = "reference"  # none, reference, running_std or running_mean_std
    c.score.clip = 5.0  # 0: no limit
    c.score.eos_penalty = 1.0  # taken off a response that was cut off
    c.score.length_penalty, c.score.length_target = 0.0, 0  # per token beyond the target
    c.whiten_rewards = False
    c.recompute_logprobs = False  # old log-probs by the trainer's own forward pass instead of the sampler's
    c.advantages = "whiten"  # whiten, mean or none
    c.advantage_clip = 0.0
    c.ptx = ConfigDict()  # replay of supervised data in the policy loss
    c.ptx.coef = 0.0
    c.ptx.batch_size = 16  # rows per iteration, shared out over the minibatches
    c.ptx.length = 256
    c.ptx.sources, c.ptx.weights = named(), named()
    c.lora = _lora()  # of actor and critic; a critic that starts from a reward model's adapter has reward.lora's shape
    c.policy_optimizer = optimizer(1e-4)
    c.value_optimizer = optimizer(1e-4)
    c.logprob_alarm = 0.05  # mean |sampler - trainer| log-prob of the first minibatch above which a warning is logged
    return c


def _evaluate() -> ConfigDict:
    c = ConfigDict()
    c.domain, c.judge = named(), ""  # in-domain prompts and what judges them
    c.general, c.general_judge = named(), "exact"
    c.limit = 0  # prompts per source; 0: all
    c.batch_size = 64
    c.temperature = 1.0  # of in-domain answers; greedy ones are judged as well, general tasks are greedy
    c.best_of = 8  # 0: no best-of-n row
    c.examples = 3  # prompts shown with every stage's answer
    return c


def default_config() -> ConfigDict:
    """The complete config, locked but for the groups named freely (sources, weights, domain_sizes)."""
    c = ConfigDict()
    c.seed = 0
    c.data_dir = ""  # folder of JSON lines named in the sources; empty: $ICEGRT_DATA
    c.domain = ""  # "adreview": the embedded domain writes its data to WORKDIR/data
    c.domain_sizes = named()  # {set: records}, see data/adreview/build.py
    # -1: what the others leave. rollout_tensor: devices that share one copy of the weights while sampling, the tensor
    # axis times a divisor of the fsdp axis; 0: the fewest that need no more memory than an update
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1, "rollout_tensor": 0})
    c.tokenizer = ConfigDict({"vocab_size": 1024})  # of the one trained for the embedded domain
    c.max_prompt_length = 128  # tokens
    c.overlong_prompts = "drop"  # drop, cut or keep
    c.max_response_length = 64  # tokens
    c.model = _model()
    c.pretrain = _supervised()  # the base model, where model.path is empty
    c.sft = _supervised()
    c.sft.lora = _lora()
    c.reward = _reward()
    c.value = ConfigDict()  # the critic
    c.value.init = "reward"  # its trunk: reward (ICE-Reward with its head) or sft (ICE-Instruct, a new head)
    c.value.trunk = "own"  # or policy: a head on the actor's hidden states, trained with its trunk
    c.value.vf_coef = 0.1  # of the value loss, where the trunk is the policy's
    c.roles = ConfigDict()
    c.roles.shared_base = False  # one frozen base; actor, critic and reward are adapters on it, the reference is it
    c.ppo = _ppo()
    c.evaluate = _evaluate()
    c.log = ConfigDict()  # may change between reruns
    c.log.every = 10  # updates to a line of metrics, which has their means; supervised stages
    c.log.checkpoint_every = 100  # updates of the supervised stages
    c.log.ppo_checkpoint_every = 10  # iterations
    c.log.samples_every = 5  # iterations between rows of samples.jsonl
    c.log.compile_cache = True  # keep compiled programs in WORKDIR/compile_cache, for reruns and resumed runs
    return _lock(c)


def _lock(config: ConfigDict) -> ConfigDict:
    """Locks every group but the freely named ones, which are the empty ones here."""
    config.lock()
    for group in _groups(config):
        if not len(group):
            group.unlock()
    return config


def _groups(config: ConfigDict) -> list[ConfigDict]:
    below = [value for value in config.values() if isinstance(value, ConfigDict)]
    return below + [group for value in below for group in _groups(value)]


def _choice(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{key}={value!r}; expected one of {', '.join(map(repr, known))}.")


def _at_least(config: ConfigDict, keys: str, smallest: int) -> None:
    for key in keys.split():
        value = config
        for part in key.split("."):
            value = value[part]
        if value < smallest:
            raise UserError(f"{key}={value}; expected {smallest} or more.")


def _check_specs(key: str, specs: ConfigDict) -> None:
    for name, spec in specs.items():
        if ":" not in spec:
            raise UserError(f"{key}.{name}={spec!r}; expected FORMAT:PATH, such as jsonl:rows.jsonl.")


def _check_sources(key: str, specs: ConfigDict, weights: ConfigDict) -> None:
    _check_specs(f"{key}.sources", specs)
    for name in specs:
        if name not in weights:
            raise UserError(f"{key}.weights has no {name!r}; give each source a weight.")
    for name in weights:
        if name not in specs:
            raise UserError(f"{key}.weights.{name} has no source of that name; the sources are {', '.join(specs)}.")


def _check_judge(key: str, judge: str, specs_key: str, specs: ConfigDict) -> None:
    _choice(key, judge, JUDGES)
    if specs and not judge:
        raise UserError(f"{key} is empty, but {specs_key} names prompts; expected one of {', '.join(JUDGES[1:])}.")


def _divides(key: str, whole: int, parts_key: str, parts: int) -> None:
    if whole % parts:
        raise UserError(f"{key}={whole} does not divide over {parts_key}={parts}; use a multiple of {parts}.")


def _check_blocks(key: str, rows: int, block_key: str, block: int) -> None:
    if block < 0:
        raise UserError(f"{block_key}={block}; expected 1 or more, or 0 for all rows at once.")
    if block and rows > block:
        _divides(key, rows, block_key, block)


def check(config: ConfigDict) -> None:
    """Raises UserError for values that cannot work together."""
    for key, value in flatten(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key}={value}; expected a finite number.")
    _choice("domain", config.domain, DOMAINS)
    _choice("overlong_prompts", config.overlong_prompts, ("drop", "cut", "keep"))
    _at_least(config, "max_prompt_length max_response_length log.every log.checkpoint_every", 1)
    _at_least(config, "log.ppo_checkpoint_every log.samples_every evaluate.batch_size", 1)
    for stage in ("pretrain", "sft", "reward"):
        section = config[stage]
        _at_least(config, f"{stage}.steps", 0)
        _at_least(config, f"{stage}.batch_size {stage}.length", 1)
        _check_blocks(f"{stage}.batch_size", section.batch_size, f"{stage}.microbatch", section.microbatch)
        _choice(f"{stage}.overlong", section.overlong, ("drop", "cut"))
        _choice(f"{stage}.optimizer.schedule", section.optimizer.schedule, SCHEDULES)
        _check_sources(stage, section.sources, section.weights)
        if section.steps and not section.sources:
            raise UserError(f"{stage}.steps={section.steps}, but {stage}.sources is empty; name a source.")
    if config.model.path and config.pretrain.steps:
        raise UserError("pretrain.steps is for models trained from scratch; set it to 0 or leave model.path empty.")
    _choice("ppo.judge", config.ppo.judge, JUDGES)
    _choice("value.init", config.value.init, ("reward", "sft"))
    _at_least(config, "reward.score_length", 0)
    _check_specs("reward.heldout", config.reward.heldout)
    _check_specs("evaluate.domain", config.evaluate.domain)
    _check_specs("evaluate.general", config.evaluate.general)
    _check_judge("evaluate.judge", config.evaluate.judge, "evaluate.domain", config.evaluate.domain)
    _check_judge("evaluate.general_judge", config.evaluate.general_judge, "evaluate.general", config.evaluate.general)
    _at_least(config, "evaluate.temperature evaluate.best_of evaluate.limit evaluate.examples ppo.iterations", 0)
    _at_least(config, "ppo.batch_size ppo.samples_per_prompt ppo.num_ppo_epochs ppo.num_minibatches", 1)
    for role in ("policy", "value"):
        _choice(f"ppo.{role}_optimizer.schedule", config.ppo[f"{role}_optimizer"].schedule, SCHEDULES)
    _check_ppo(config.ppo)
    _check_roles(config)


def check_given_reward(config: ConfigDict) -> None:
    """Refuses a run that trains no reward model and is given none; a plan, or another stage alone, needs none."""
    reward = config.reward
    if reward.steps:
        return
    if reward.init in ("sft", "scratch") and config.ppo.iterations:
        raise UserError(
            f"reward.steps=0 with reward.init={reward.init!r}: PPO would have no reward model; set reward.steps, or "
            "name the folder of a finished one in reward.init, which is then used as it is."
        )
    if reward.init not in ("sft", "scratch") and reward.lora.rank:
        raise UserError(f"reward.lora.rank={reward.lora.rank} with reward.steps=0: no adapter is trained; set it to 0.")


def doubts(config: ConfigDict) -> list[str]:
    """What is allowed but hardly meant, a sentence each, for whoever starts the run."""
    reward, ppo, said = config.reward, config.ppo, []
    if reward.steps and reward.init in ("sft", "scratch"):  # a folder's tokenizer may count otherwise
        said += short_reward(config)
    if reward.steps and reward.score_length > reward.length:
        said.append(
            f"reward.score_length={reward.score_length} is above reward.length={reward.length}: PPO will score answers "
            f"longer than any the reward model has learned from; set reward.length={reward.score_length}."
        )
    if 0 < ppo.iterations <= ppo.value_warmup:
        said.append(
            f"ppo.value_warmup={ppo.value_warmup} with ppo.iterations={ppo.iterations}: only the critic will learn, "
            "and ICE-GRT will be ICE-Instruct; set a smaller ppo.value_warmup."
        )
    return said


def short_reward(config: ConfigDict) -> list[str]:
    """A sentence where the reward model does not learn from the longest answers that PPO lets it score."""
    longest = config.max_prompt_length + config.max_response_length
    if not config.ppo.iterations or config.reward.length >= longest:
        return []
    lost = {"drop": "are left out of its training", "cut": "lose their end in its training"}[config.reward.overlong]
    return [
        f"reward.length={config.reward.length} is below max_prompt_length + max_response_length={longest}: the longest "
        f"answers {lost}, and PPO will score them all the same; set reward.length={longest}."
    ]


def _check_roles(config: ConfigDict) -> None:
    for key, lora in (("sft", config.sft.lora), ("reward", config.reward.lora), ("ppo", config.ppo.lora)):
        _at_least(config, f"{key}.lora.rank", 0)
        if lora.alpha <= 0:
            raise UserError(f"{key}.lora.alpha={lora.alpha}; expected a number above 0.")
        unknown = [name for name in lora.targets if name not in LORA_TARGETS]
        if unknown or not lora.targets:
            raise UserError(f"{key}.lora.targets={lora.targets}; expected some of {', '.join(LORA_TARGETS)}.")
    _choice("value.trunk", config.value.trunk, ("own", "policy"))
    for key, section in (("model", config.model), ("reward.model", config.reward.model)):
        _choice(f"{key}.attention", section.attention, ATTENTIONS)
    _choice("model.param_dtype", config.model.param_dtype, PARAM_DTYPES)
    _choice("model.remat", config.model.remat, REMATS)
    adapted = config.reward.lora.rank and config.ppo.lora.rank
    if config.value.trunk == "policy" and config.value.vf_coef <= 0:
        raise UserError(f"value.vf_coef={config.value.vf_coef}; with value.trunk='policy' expected a number above 0.")
    if config.roles.shared_base and not adapted:
        raise UserError(
            f"roles.shared_base needs adapters: reward.lora.rank={config.reward.lora.rank} and "
            f"ppo.lora.rank={config.ppo.lora.rank} must both be above 0."
        )
    if config.roles.shared_base and config.reward.init != "sft":
        raise UserError(
            f"reward.init={config.reward.init!r}: with roles.shared_base the reward model is an adapter on "
            "ICE-Instruct; use reward.init='sft'."
        )
    if config.model.param_dtype == "int8" and config.ppo.iterations and not config.ppo.lora.rank:
        raise UserError(
            "model.param_dtype='int8' with ppo.lora.rank=0: the actor would not start as the int8 reference; "
            "use an adapter, or bfloat16."
        )
    for key in ("adapter", "hf_config"):
        if config.model[key] and not config.model.path:
            raise UserError(f"model.{key}={config.model[key]!r} belongs to a model; set model.path as well.")
    if config.model.param_dtype == "bfloat16" and config.ppo.iterations and not config.ppo.lora.rank:
        if config.model.dtype != "bfloat16":
            raise UserError(
                f"model.param_dtype='bfloat16' with model.dtype={config.model.dtype!r} and ppo.lora.rank=0: the actor "
                "would not start as the bfloat16 reference; use model.dtype='bfloat16' as well, or an adapter."
            )
    if config.value.trunk == "policy" and config.value.init != "reward":
        raise UserError(
            f"value.init={config.value.init!r} is for a critic with a trunk of its own; with value.trunk='policy' "
            "leave it out."
        )
    if config.sft.lora.rank and not config.model.path and not config.pretrain.steps:
        raise UserError("sft.lora.rank is for a base model that exists; set model.path, or pretrain one.")
    if config.reward.lora.rank and config.reward.init == "scratch":
        raise UserError("reward.lora.rank is for a trunk that exists; use another reward.init, or rank 0.")


def _check_ppo(ppo: ConfigDict) -> None:
    _check_sources("ppo", ppo.sources, ppo.weights)
    _check_sources("ppo.ptx", ppo.ptx.sources, ppo.ptx.weights)
    check_penalty(ppo.kl.kind, ppo.kl.into, ("ppo.kl.kind", "ppo.kl.into"))
    _choice("ppo.score.scale", ppo.score.scale, ("none", "reference", "running_std", "running_mean_std"))
    _choice("ppo.advantages", ppo.advantages, ("whiten", "mean", "none"))
    if ppo.iterations and not ppo.sources:
        raise UserError(f"ppo.iterations={ppo.iterations}, but ppo.sources is empty; name a source of prompts.")
    if ppo.temperature <= 0:
        raise UserError(f"ppo.temperature={ppo.temperature}; sampling needs a temperature above 0.")
    if ppo.top_k < 0 or not 0 < ppo.top_p <= 1 or not 0 <= ppo.min_p <= 1:
        raise UserError(
            f"ppo.top_k={ppo.top_k}, ppo.top_p={ppo.top_p}, ppo.min_p={ppo.min_p}; "
            "expected top_k >= 0, 0 < top_p <= 1 and 0 <= min_p <= 1."
        )
    _choice("ppo.cache_dtype", ppo.cache_dtype, CACHE_DTYPES)
    if ppo.rollout_slots < 0:
        raise UserError(f"ppo.rollout_slots={ppo.rollout_slots}; expected 1 or more, or 0 for all responses at once.")
    _divides("ppo.rollout_slots", ppo.rollout_slots, "ppo.samples_per_prompt", ppo.samples_per_prompt)
    rows = ppo.batch_size * ppo.samples_per_prompt
    _divides("ppo.batch_size * samples_per_prompt", rows, "ppo.num_minibatches", ppo.num_minibatches)
    minibatch = rows // ppo.num_minibatches
    _check_blocks("a minibatch of ppo.batch_size * samples_per_prompt", minibatch, "ppo.microbatch", ppo.microbatch)
    _check_blocks("ppo.batch_size * samples_per_prompt", rows, "ppo.score_batch", ppo.score_batch)
    if ppo.ptx.coef:
        _divides("ppo.ptx.batch_size", ppo.ptx.batch_size, "ppo.num_minibatches", ppo.num_minibatches)
        blocks = max(minibatch // ppo.microbatch, 1) if ppo.microbatch else 1
        _divides("ppo.ptx.batch_size / num_minibatches", ppo.ptx.batch_size // ppo.num_minibatches,
            "the blocks of ppo.microbatch in a minibatch", blocks)  # fmt: skip
        if not ppo.ptx.sources:
            raise UserError(f"ppo.ptx.coef={ppo.ptx.coef}, but ppo.ptx.sources is empty; name a source.")
    if 0 < ppo.dual_clip <= 1 or ppo.dual_clip < 0:
        raise UserError(f"ppo.dual_clip={ppo.dual_clip}; expected a value above 1, or 0 for off.")
    if ppo.kl.adaptive and min(ppo.kl.coef, ppo.kl.target, ppo.kl.horizon) <= 0:
        raise UserError(
            f"ppo.kl.coef={ppo.kl.coef}, ppo.kl.target={ppo.kl.target}, ppo.kl.horizon={ppo.kl.horizon}: an adaptive "
            "coefficient needs all three above 0; for a fixed one, or none, set ppo.kl.adaptive=false."
        )
    if ppo.kl.adaptive and rows >= 5 * ppo.kl.horizon:
        raise UserError(f"ppo.kl.horizon={ppo.kl.horizon} is too short for {rows} responses; use {rows} or more.")
