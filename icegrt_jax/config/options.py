"""Every option of a run: its type, its choices or its range, its default, and in its comment meaning, unit and source.

Nothing has a default anywhere else. From these sections come the config that a file in `configs/` starts from and the
typed options that a program reads it into (`convert.py`), the defaults of what the maths takes, and docs/config.md
(`page.py`). A value whose comment names no paper or program is ours.

>>> ice.options.PPOOptions().kl.target, ice.options.PPOOptions(batch_size=16).batch_size
(6.0, 16)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from icegrt_jax.config.choices import (
    LORA_TARGETS,
    ActorStart,
    Advantages,
    Aggregation,
    Attention,
    CacheDtype,
    CriticInit,
    CriticTrunk,
    Dtype,
    EnsembleAs,
    Estimator,
    Kept,
    KLKind,
    KLPlace,
    LoRATarget,
    Overlong,
    OverlongPrompts,
    ParamDtype,
    Remat,
    Schedule,
    ScoreBaseline,
    ScoreEnsemble,
    ScoreScale,
    ScoreShape,
)
from icegrt_jax.config.ranges import (
    MOST,
    Amount,
    Count,
    Decay,
    Number,
    Positive,
    Probability,
    Range,
    Share,
    Size,
)

Axis = Annotated[int, Range(1, MOST, also=(-1,))]  # of the mesh

# Groups whose names are the user's.
Specs = Mapping[str, str]  # {source: "FORMAT:PATH"}
Weights = Mapping[str, Amount]  # {source: its share}
RewardWeights = Mapping[str, Number]  # {reward function: its weight}
Judges = Mapping[str, str]  # {source: its own judge}
Scales = Mapping[str, ScoreScale]  # {reward function: its rule}


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """AdamW of one role."""

    lr: Amount  # peak learning rate
    warmup_steps: Count = 0  # updates, linear from 0 to lr
    schedule: Schedule = "constant"  # after the warm-up; linear and cosine go down to final_lr_fraction * lr
    final_lr_fraction: Share = 0.0  # of lr, where the schedule ends
    b1: Decay = 0.9  # of Adam (arXiv 1412.6980)
    b2: Decay = 0.95  # of Adam; lower than its 0.999, as GPT-3 (arXiv 2005.14165, appendix B)
    eps: Positive = 1e-8  # of Adam (arXiv 1412.6980)
    weight_decay: Amount = 0.0  # decoupled (arXiv 1711.05101); on kernels, embeddings and adapters only
    max_grad_norm: Amount = 1.0  # gradients are scaled down to this global norm, as GPT-3; 0: no limit


@dataclass(frozen=True, kw_only=True)
class LoRAOptions:
    """An adapter (arXiv 2106.09685), trained in place of all parameters."""

    rank: Count = 0  # columns of its first factor; 0: no adapter, all parameters are trained
    alpha: Positive = 16.0  # its scale is alpha / rank
    targets: tuple[LoRATarget, ...] = LORA_TARGETS  # projections that get one
    rslora: bool = False  # scale alpha / sqrt(rank) instead (arXiv 2312.03732)


@dataclass(frozen=True, kw_only=True)
class ShapeOptions:
    """A decoder trained from scratch, a small Llama, and how one is computed."""

    d_model: Size = 128  # D, width of the residual stream
    num_layers: Size = 4  # blocks
    d_ff: Size = 384  # F, width of the gated MLP
    num_heads: Size = 4  # N, query heads
    num_kv_heads: Size = 2  # key and value heads; divides num_heads (grouped-query attention, arXiv 2305.13245)
    head_dim: Size = 32  # H, width of one head; even, for the rotary embedding
    rope_theta: Positive = 10000.0  # base of the rotary embedding (arXiv 2104.09864)
    norm_eps: Positive = 1e-5  # of RMSNorm, as Llama
    tie_embeddings: bool = True  # logits from the embedding itself; otherwise from a matrix of their own
    # Standard deviation of a new embedding, as GPT-2. Small models learn to copy from their context much sooner with
    # about 1 / sqrt(d_model).
    init_std: Positive = 0.02
    scan_layers: bool = False  # stack the layers and scan: for deep models, which then compile fast
    remat: Remat = "none"  # computed again by the backward pass: nothing, all but products with weights, or the layer
    dtype: Dtype = "float32"  # of the computation; bfloat16 on TPU and GPU
    attention: Attention = "auto"  # over whole rows; splash is for TPU, cudnn for GPU; auto: the fastest that there is


@dataclass(frozen=True, kw_only=True)
class ModelOptions(ShapeOptions):
    """The policy's model: trained from scratch in this shape, or read from a folder."""

    path: str = ""  # Hugging Face folder or name on the hub, whose shape replaces this one; empty: from scratch
    hf_config: str = ""  # folder with the config.json of model.path, for `icegrt plan` where the model is not here
    adapter: str = ""  # a folder that PEFT saved, a LoRA adapter of model.path: merged into it when it is loaded
    param_dtype: ParamDtype = "float32"  # of frozen trees, int8 under adapters; what is trained is float32


@dataclass(frozen=True, kw_only=True)
class HeldoutOptions:
    """What is measured on held-out data while a stage trains, and what follows from it; see docs/runs.md."""

    heldout: Specs = field(default_factory=dict)  # {source: "FORMAT:PATH"}, never trained on
    heldout_limit: Count = 0  # records per held-out source; 0: all
    heldout_every: Count = 0  # steps between two measurements; 0: none while it trains
    best: str = ""  # the number by which the best checkpoint is kept, such as heldout/loss; empty: only the last
    patience: Count = 0  # measurements without a better one that end the stage; 0: it goes on to its last step
    use: Kept = "last"  # the checkpoint that later stages and exports take


@dataclass(frozen=True, kw_only=True)
class SupervisedOptions(HeldoutOptions):
    """Next-token training: the base model, or ICE-Instruct."""

    steps: Count = 0  # updates; 0 skips the stage
    batch_size: Size = 16  # rows per update, all devices
    microbatch: Count = 0  # rows of it differentiated at a time, gradients added up: less memory, same update; 0: all
    length: Size = 256  # tokens per row
    packing: bool = True  # several examples share a row, each seeing only itself
    overlong: Overlong = "drop"  # conversations longer than a row: left out, or they lose their end
    sources: Specs = field(default_factory=dict)  # {source: "FORMAT:PATH"}, see docs/data.md
    weights: Weights = field(default_factory=dict)  # {source: its share of the tokens}; one source alone needs none
    optimizer: OptimizerOptions = OptimizerOptions(lr=1e-3)  # of the policy


@dataclass(frozen=True, kw_only=True)
class SFTOptions(SupervisedOptions):
    """ICE-Instruct, from the base model."""

    lora: LoRAOptions = LoRAOptions()  # of ICE-Instruct


@dataclass(frozen=True, kw_only=True)
class RewardOptions(HeldoutOptions):
    """ICE-Reward, from ranked answers."""

    init: str = "sft"  # sft (ICE-Instruct's trunk), scratch (shape in reward.model) or a Hugging Face folder
    model: ShapeOptions = ShapeOptions()  # of scratch; of a folder only how it is computed: scan_layers to attention
    steps: Count = 0  # updates; 0 skips the stage, but a folder in reward.init is then used as it is
    batch_size: Size = 16  # prompts per update, each with all its answers, all devices
    microbatch: Count = 0  # of them at a time, as sft.microbatch
    length: Size = 256  # tokens of prompt and answer
    overlong: Overlong = "drop"  # answers longer than that: left out, or they lose their end
    sources: Specs = field(default_factory=dict)  # {source: "FORMAT:PATH"} of rankings
    weights: Weights = field(default_factory=dict)  # {source: its share of the prompts}; one source alone needs none
    # A prompt and its ranked answers are read as one tree, what they begin with alike once: the same scores to
    # rounding, in a part of the time. On one host, where attention is plain, without lm_coef.
    share_prefixes: bool = True
    lm_coef: Amount = 0.0  # of the language modelling loss on each prompt's best answer, beside the ranks'; 0: off
    optimizer: OptimizerOptions = OptimizerOptions(lr=3e-4)  # of the reward model
    lora: LoRAOptions = LoRAOptions()  # of the reward model, on ICE-Instruct or the folder's model
    on_policy_k: Count = 5  # answers per prompt sampled from ICE-Instruct, where the domain ranks them; 0: none
    score_length: Count = 0  # tokens of prompt and answer that it scores with a tokenizer of its own; 0: as length
    # Reward models that are trained, each with another order of the data and, where the head is new, another head
    # (arXiv 2310.02743); PPO has all of them, see ppo.score.ensemble.
    ensemble: Size = 1
    ensemble_with: tuple[str, ...] = ()  # or folders of finished ones of one shape, beside reward.init; steps=0
    ensemble_as: EnsembleAs = "scores"  # each of them scores; weights: one model of their mean weights (2401.12187)
    normalize_on: Count = 256  # ICE-Instruct answers on which mean and spread of the scores are fitted (1909.08593)

    @property
    def text_length(self) -> int:
        """Tokens of prompt and answer that it reads with a tokenizer of its own."""
        return self.score_length or self.length

    @property
    def members(self) -> int:
        """How many reward models there are."""
        return self.ensemble if self.steps else 1 + len(self.ensemble_with)

    @property
    def scorers(self) -> int:
        """How many score an answer."""
        return self.members if self.ensemble_as == "scores" else 1


@dataclass(frozen=True, kw_only=True)
class ValueOptions:
    """The critic."""

    init: CriticInit = "reward"  # its trunk: ICE-Reward with its head (arXiv 2203.02155), or ICE-Instruct, a new head
    trunk: CriticTrunk = "own"  # or a head on the actor's hidden states, trained with its trunk
    vf_coef: Amount = 0.1  # of the value loss where the trunk is the policy's, as openai/lm-human-preferences


@dataclass(frozen=True, kw_only=True)
class RolesOptions:
    """How the four roles of PPO are kept."""

    shared_base: bool = False  # one frozen base; actor, critic and reward are adapters on it, the reference is it


@dataclass(frozen=True, kw_only=True)
class KLOptions:
    """The penalty that keeps the policy near ICE-Instruct."""

    kind: KLKind = "k1"  # in the reward; in the loss exact, k2 (its gradient, sampled) or k3 (that of KL(ref || π))
    into: KLPlace = "reward"  # as arXiv 1909.08593; loss goes with another kind
    coef: Amount = 0.05  # of the penalty, at the start where it is adaptive
    # Of the reference in the penalty; below ppo.temperature the policy is drawn towards what ICE-Instruct itself holds
    # likely, not only kept near it (arXiv 2412.01951); 0: ppo.temperature.
    reference_temperature: Amount = 0.0
    adaptive: bool = True  # steered towards the target (arXiv 1909.08593, section 2.2)
    target: Positive = 6.0  # nats per response, as openai/lm-human-preferences
    band: tuple[Amount, Amount] = (0.5, 1.5)  # of the target: where the run is expected to end
    horizon: Positive = 2000.0  # responses over which the coefficient may move by 20 %
    early_stop: Amount = 0.0  # approx_kl of a minibatch that ends the iteration's updates; 0: off


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """What becomes of a score before it is a reward."""

    baseline: ScoreBaseline = "none"  # centring: each prompt's reference answer's score is taken off (arXiv 2502.18770)
    # Of several reward models, each by its own mean and spread of ICE-Instruct's answers: the mean, the worst, or the
    # mean less ensemble_coef times the variance over them (arXiv 2310.02743).
    ensemble: ScoreEnsemble = "mean"
    ensemble_coef: Amount = 0.1  # of uncertainty; scores are in spreads of ICE-Instruct's answers
    scale: ScoreScale = "reference"  # by ICE-Instruct's mean and spread (arXiv 1909.08593), or the run's own so far
    by_source: bool = False  # each source of prompts by its own mean and spread, or its own so far
    clip: Amount = 5.0  # largest absolute value of a scaled score; 0: no limit
    shape: ScoreShape = "none"  # then its sigmoid, which bounds what a high score is worth (arXiv 2502.18770)
    eos_penalty: Amount = 1.0  # taken off the scaled score of a response that was cut off (arXiv 2403.17031, section 3)
    length_penalty: Amount = 0.0  # scaled score, per token beyond the target; 0: off
    length_target: Count = 0  # tokens


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """Supervised data in the policy loss: PPO-ptx (arXiv 2203.02155)."""

    coef: Amount = 0.0  # of its loss; 0: off
    batch_size: Size = 16  # rows per iteration, shared out over the minibatches
    length: Size = 256  # tokens per row
    sources: Specs = field(default_factory=dict)  # {source: "FORMAT:PATH"}
    weights: Weights = field(default_factory=dict)  # {source: its share of the tokens}; one source alone needs none


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """How responses are drawn."""

    temperature: Amount = 1.0  # divides the logits; log-probs are of the full softmax at this temperature
    top_k: Count = 0  # only the k likeliest tokens; 0: all
    top_p: Probability = 1.0  # only the likeliest tokens that together reach this probability; 1: all
    min_p: Share = 0.0  # only tokens at least this fraction as likely as the likeliest; 0: all
    cache_dtype: CacheDtype = "compute"  # of keys and values; int8: a quarter of float32, log-probs a little off


@dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """What the steps of PPO are compiled with, beside KL, score and replay."""

    num_ppo_epochs: Size = 1  # passes over a rollout
    num_minibatches: Size = 1  # updates of a pass
    score_batch: Count = 0  # responses scored at a time: less memory, same scores; 0: all
    # Of the advantages: gae (arXiv 1506.02438) has a critic; rloo (2402.14740), grpo (2402.03300), dr_grpo (2503.20783)
    # and gspo (2507.18071) compare the answers to a prompt, reinforce_pp (2501.03262) those of the batch.
    estimator: Estimator = "gae"
    # Of the losses of single tokens: the mean over tokens, over an answer's tokens and then answers, or over a constant
    # length; own: token for gae and reinforce_pp, sequence for grpo and gspo, constant for rloo and dr_grpo.
    loss_aggregation: Aggregation = "own"
    # Leave out prompts whose answers all have one score, as the dynamic sampling of DAPO (arXiv 2503.14476): they are
    # masked, so that shapes stay the same; redraw puts others in their place.
    filter_groups: bool = False
    filter_overlong: bool = False  # leave cut-off responses out of the policy's loss (arXiv 2503.14476, section 3.4)
    entropy_coef: Amount = 0.0  # of the entropy bonus in the loss (arXiv 1602.01783, section 4), per nat; 0: off
    gamma: Share = 1.0  # discount, none, as openai/lm-human-preferences
    lam: Share = 0.95  # λ of GAE (arXiv 1506.02438), as openai/lm-human-preferences
    lam_alpha: Amount = 0.0  # λ = 1 - 1 / (alpha · length) in its place, VAPO has 0.05 (2504.05118); 0: off
    # λ of what the critic learns, decoupled, VAPO has 1 (2504.05118); -1: as the advantages'
    value_lam: Annotated[float, Range(0, 1, also=(-1,))] = -1.0
    cliprange: Positive = 0.2  # of the ratio (arXiv 1707.06347)
    cliprange_high: Amount = 0.0  # of the ratio upwards (arXiv 2503.14476); 0: the same as cliprange
    cliprange_value: Amount = 0.2  # of the values, as openai/lm-human-preferences; 0: no clipping
    # Bound of the loss where the advantage is negative (arXiv 1912.09729); 0: off
    dual_clip: Annotated[float, Range(1, above=True, also=(0,))] = 0.0
    value_warmup: Count = 0  # iterations in which only the critic learns
    # Iterations of a window: the warm-up ends once the critic's error is no lower in one than in the one before
    # (2504.05118, section 4.1), value_warmup being the most; 0: it has that length.
    value_flat: Count = 0
    ema: Decay = 0.0  # decay of an average of the actor over the iterations, which is what is kept (2406.16768); 0: off
    whiten_rewards: bool = False  # before the advantages, their mean kept, as openai/lm-human-preferences
    recompute_logprobs: bool = False  # old log-probs by the trainer's own forward pass instead of the sampler's
    advantages: Advantages = "whiten"  # gae's: to mean 0 and deviation 1, to mean 0 only, or as they are
    advantage_clip: Amount = 0.0  # largest absolute value; 0: no limit


@dataclass(frozen=True, kw_only=True)
class AlarmOptions:
    """When a run says that it goes wrong, why, and what to change; see docs/alarms.md. It trains the same."""

    off: tuple[str, ...] = ()  # alarms that are not raised
    stop: tuple[str, ...] = ()  # alarms that end the stage, its state saved, such as over_optimised
    # Iterations whose mean is looked at: the standard error of gold is 0.04 in one, 0.014 in eight
    window: Annotated[int, Range(2, MOST)] = 8
    errors: Amount = 3.0  # standard errors of that mean that it is beyond a bound when an alarm begins
    gold_fall: Share = 0.1  # over_optimised: of its best; at most 0.07 in eight sound quickstarts, 0.6 in two hacked
    # length_explosion: times the length at the start; 1.9 in the quickstart, which allows 3
    length_growth: Annotated[float, Range(1, above=True)] = 2.0
    length_left: Share = 0.5  # length_collapse: share of the start's length; 0.3 where SmolLM2 left out its reasons
    perplexity_left: Share = 0.5  # perplexity_collapse: share of the start's log-perplexity (arXiv 2307.04964, fig. 4)
    kl_below: Amount = 0.1  # negative_kl: nats per response below 0
    kl_above: Amount = 50.0  # kl_too_large: nats per response, where the coefficient is fixed and so has no band
    # useless_critic: below it the mean return would be the better value
    explained_variance: Annotated[float, Range(high=1)] = 0.0
    entropy_left: Share = 0.25  # entropy_collapse: share of the entropy at the start; 0.04 in a hacked quickstart
    eos_rate: Share = 0.8  # few_eos: share of the answers that are not cut off
    reward_every: Count = 0  # iterations between two looks at the reward model on the policy's own answers; 0: none
    reward_k: Size = 4  # answers to a held-out prompt for it, where ppo.samples_per_prompt=1 gives no pairs
    # ensemble_disagrees: times the spread over the reward models at the start
    ensemble_growth: Annotated[float, Range(1, above=True)] = 2.0
    reward_left: Share = 0.5  # reward_at_chance: share of what held-out rankings have above 0.5


@dataclass(frozen=True, kw_only=True)
class PPOOptions(DrawOptions, UpdateOptions, HeldoutOptions):
    """ICE-GRT."""

    iterations: Count = 0  # a rollout and what is learned from it; 0 skips the stage
    batch_size: Size = 64  # prompts per iteration, all devices
    samples_per_prompt: Size = 1  # responses
    # With filter_groups, further rollouts of other prompts in an iteration at most, until every prompt has a signal
    # (arXiv 2503.14476, section 3.2); 0: none.
    redraw: Count = 0
    microbatch: Count = 0  # responses of a minibatch at a time, as sft.microbatch
    average: tuple[Share, ...] = ()  # points of the way from ICE-Instruct (0) to ICE-GRT (1) tried (arXiv 2406.16768)
    average_by: str = "heldout/gold"  # the number by which one of them is taken, or several with a + between them
    pack: bool = True  # short responses share a row where they are scored and learned from: less work, same update
    sources: Specs = field(default_factory=dict)  # {source: "FORMAT:PATH"} of prompts
    weights: Weights = field(default_factory=dict)  # {source: its share of the prompts}; one source alone needs none
    rollout_slots: Count = 0  # responses in flight, others wait for a free slot; 0: all at once. Changes no response
    rewards: Specs = field(default_factory=dict)  # {name: "FILE.py:FUNCTION"}, see docs/extending.md
    reward_weights: RewardWeights = field(default_factory=dict)  # {name or model: in the score}; 1 where not given
    reward_scales: Scales = field(default_factory=dict)  # {name: see ppo.score.scale}; none where not given
    reward_timeout: Amount = 600.0  # seconds that a call of a function may take; 0: no limit
    reward_workers: Count = 0  # processes that call them, each for a part of the batch; 0: a thread of the run itself
    reward_failed: str = "stop"  # where one fails: stop, or what the response is given: none (no opinion) or a number
    judge: str = ""  # measures the rollouts for the curves, never seen by the training; a name or FILE.py:FUNCTION
    judges: Judges = field(default_factory=dict)  # {source: its own judge}
    kl: KLOptions = KLOptions()  # the penalty
    score: ScoreOptions = ScoreOptions()  # from score to reward
    ptx: ReplayOptions = field(default_factory=ReplayOptions)  # the replay
    lora: LoRAOptions = LoRAOptions()  # of actor and critic; a critic from a reward model's adapter has reward.lora's
    policy_optimizer: OptimizerOptions = OptimizerOptions(lr=1e-4)  # of the actor
    value_optimizer: OptimizerOptions = OptimizerOptions(lr=1e-4)  # of the critic
    logprob_alarm: Amount = 0.05  # nats: mean |sampler - trainer| of a minibatch's log-probs above which it is said
    alarms: AlarmOptions = AlarmOptions()  # what is said of a run that goes wrong


@dataclass(frozen=True, kw_only=True)
class JudgeModelOptions:
    """The judge `model`: a language model that grades answers by eight criteria; see docs/judging.md."""

    model: str = ""  # its name at the endpoint; without a url a folder, anything that ice.load_model opens
    url: str = ""  # of an OpenAI-compatible endpoint, such as http://localhost:8000/v1
    key_env: str = ""  # environment variable that holds the endpoint's key; empty: it needs none
    at_once: Size = 4  # requests, or answers of a local model, at a time
    timeout: Positive = 120.0  # seconds without a byte from the endpoint
    retries: Count = 4  # of a request after a timeout, a rate limit or a fault of the server, each wait twice the last
    max_tokens: Size = 1024  # of a reply, a reasoning model's thoughts included
    cache: str = "~/.cache/icegrt_jax/judge"  # folder where replies are kept, never asked for twice; empty: none


@dataclass(frozen=True, kw_only=True)
class AnnotationOptions:
    """How answers are ranked between two rounds; see docs/runs.md."""

    by: str = "domain"  # its annotators; people, who are waited for; or a judge's gold: a name or FILE.py:FUNCTION
    prompts: str = ""  # FORMAT:PATH of the prompts that are answered; empty: the domain's set ranking_prompts
    limit: Count = 0  # of them, the first ones; 0: all
    policy_k: Size = 4  # answers per prompt of the policy that the last round has left
    instruct_k: Count = 4  # of ICE-Instruct to the same prompt, ranked together with those
    weight: Positive = 1.0  # of the rankings of a round after the first among those of reward.weights
    start: ActorStart = "instruct"  # where PPO's actor begins in a later round: ICE-Instruct, or the last policy
    judge_model: JudgeModelOptions = JudgeModelOptions()  # where by is "model"


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The table."""

    domain: Specs = field(default_factory=dict)  # {source: "FORMAT:PATH"} of in-domain prompts
    judge: str = ""  # of the answers to them; a name or FILE.py:FUNCTION
    general: Specs = field(default_factory=dict)  # {source: "FORMAT:PATH"} of general tasks
    general_judge: str = "exact"  # of the answers to them
    judges: Judges = field(default_factory=dict)  # {source of either: its own judge}
    limit: Count = 0  # prompts per source; 0: all
    batch_size: Size = 64  # prompts at a time, here and wherever answers are sampled outside PPO
    temperature: Amount = 1.0  # of in-domain answers; greedy ones are judged as well, general tasks are greedy
    samples: Size = 1  # answers drawn to each in-domain prompt, times that the best of n is taken; their mean counts
    temperatures: tuple[Amount, ...] = ()  # of which each stage's best is measured as well; 0: greedy
    temperature_prompts: Specs = field(default_factory=dict)  # {source: "FORMAT:PATH"} of prompts it is chosen on
    temperature_limit: Count = 0  # of these per source; 0: all
    reward_model: str = ""  # folder of one that training never saw: it scores every row's in-domain answers
    best_of: Count = 8  # answers among which ICE-Reward chooses; 0: no best-of-n row
    examples: Count = 3  # prompts shown with every stage's answer
    judge_model: JudgeModelOptions = JudgeModelOptions()  # where a judge is "model"


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """The devices as a grid. One axis may be -1: what the others leave."""

    data: Axis = -1  # devices with different rows and all of the parameters
    fsdp: Axis = 1  # devices with different rows, the parameters split over them
    tensor: Axis = 1  # devices with the same rows, heads and widths split over them
    # Devices that share one copy of the weights while sampling: the tensor axis times a divisor of the fsdp axis;
    # 0: the fewest that need no more memory than an update.
    rollout_tensor: Count = 0


@dataclass(frozen=True, kw_only=True)
class TokenizerOptions:
    """The tokenizer trained for the domain."""

    vocab_size: Size = 1024  # tokens


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What a run prints and keeps; may change between reruns."""

    every: Size = 10  # updates to a line of metrics, which has their means; supervised stages
    checkpoint_every: Size = 100  # updates of the supervised stages
    ppo_checkpoint_every: Size = 10  # iterations
    samples_every: Size = 5  # iterations between rows of samples.jsonl
    followed: Count = 4  # prompts that PPO answers again as it goes on, for the report; 0: none
    browsed: Count = 64  # in-domain prompts whose answers `evaluate` scores token by token, for the report; 0: none
    report_minutes: Amount = 2.0  # between two writings of the report while a stage trains; 0: only `report` writes it
    skipped: Size = 3  # updates in a row that end a stage; each is skipped as its loss or gradient is not finite
    writers: tuple[str, ...] = ()  # trackers of one's own beside TensorBoard, each FILE.py:CLASS, see docs/runs.md
    compile_cache: bool = True  # keep compiled programs in WORKDIR/compile_cache or $JAX_COMPILATION_CACHE_DIR


@dataclass(frozen=True, kw_only=True)
class LengthOptions:
    """How long prompts and responses may be."""

    max_prompt_length: Size = 128  # tokens
    overlong_prompts: OverlongPrompts = "drop"  # longer prompts: left out, cut in the user's last message, or kept
    max_response_length: Size = 64  # tokens

    @property
    def total(self) -> int:
        """Tokens of prompt and response."""
        return self.max_prompt_length + self.max_response_length


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """Where a run's records come from."""

    seed: Annotated[int, Range(0, 2**32 - 1)] = 0  # of every random choice
    data_dir: str = ""  # folder where relative paths of the sources start; empty: $ICEGRT_DATA, else here
    domain: str = ""  # one that ships or FILE.py:CLASS (docs/extending.md); its data are written to WORKDIR/data
    domain_sizes: Mapping[str, Count] = field(default_factory=dict)  # {set: records}, the sets being the domain's


@dataclass(frozen=True, kw_only=True)
class OriginOptions(RecordOptions):
    """What a run starts from: its records, and the model whose tokenizer it has, or the tokenizer it trains."""

    tokenizer: TokenizerOptions = TokenizerOptions()  # where model.path is empty
    model: ModelOptions = ModelOptions()  # the policy's, and of all who start from it


@dataclass(frozen=True, kw_only=True)
class Options(OriginOptions, LengthOptions):
    """A run."""

    rounds: Size = 1  # of reward model and PPO, each with answers of the policy before it ranked anew
    mesh: MeshOptions = MeshOptions()  # of all devices
    pretrain: SupervisedOptions = field(default_factory=SupervisedOptions)  # the base model, where model.path is empty
    sft: SFTOptions = field(default_factory=SFTOptions)  # ICE-Instruct
    reward: RewardOptions = field(default_factory=RewardOptions)  # ICE-Reward
    value: ValueOptions = ValueOptions()  # the critic
    roles: RolesOptions = RolesOptions()  # of PPO
    ppo: PPOOptions = field(default_factory=PPOOptions)  # ICE-GRT
    annotation: AnnotationOptions = AnnotationOptions()  # between two rounds
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)  # the table
    log: LogOptions = LogOptions()  # may change between reruns

    @property
    def lengths(self) -> LengthOptions:
        """Those of prompts and responses alone."""
        return LengthOptions(
            max_prompt_length=self.max_prompt_length,
            overlong_prompts=self.overlong_prompts,
            max_response_length=self.max_response_length,
        )

    @property
    def reward_model(self) -> float:
        """Weight of ICE-Reward in PPO's score; 0: PPO has no reward model, reward functions only."""
        no_stage = not self.reward.steps and self.reward.init in ("sft", "scratch")
        return self.ppo.reward_weights.get("model", 0.0 if no_stage and self.ppo.rewards else 1.0)

    @property
    def steps(self) -> dict[str, int]:
        """How long each stage that trains is: updates, or iterations; 0: it is skipped."""
        supervised = {"pretrain": self.pretrain.steps, "sft": self.sft.steps}
        return {**supervised, "reward": self.reward.steps, "ppo": self.ppo.iterations}

    @property
    def training(self) -> dict[str, SupervisedOptions | RewardOptions | PPOOptions]:
        """The sections of the stages that train."""
        stages: dict[str, SupervisedOptions | RewardOptions | PPOOptions] = {
            "pretrain": self.pretrain, "sft": self.sft, "reward": self.reward, "ppo": self.ppo,
        }  # fmt: skip
        return {stage: section for stage, section in stages.items() if self.steps[stage]}
