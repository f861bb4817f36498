"""Every option of a run with its default, and the checks made before any device is touched.

A file in `configs/` starts from `default_config()` and sets what differs; nothing has a default
anywhere else. The file is locked, so a misspelt key is an error.
"""

from ml_collections import ConfigDict

JUDGES = ("", "adreview", "choice", "exact", "overlap")
DOMAINS = ("", "adreview")
LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
PARAM_DTYPES = ("float32", "bfloat16", "int8")
CACHE_DTYPES = ("compute", "int8")
REMATS = ("none", "dots", "full")
ATTENTIONS = ("auto", "plain", "splash", "cudnn")
SCHEDULES = ("constant", "linear", "cosine")


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
    c.domain_sizes = named()  # {set: records}, see domains/adreview/build.py
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
