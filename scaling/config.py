"""Every setting of a cell and of a final run: types, defaults, checks. YAML only overrides them.

A cell's identity is the hash of its science part (model, data, tokenizer, optim, schedule, budget,
evaluation, seed), values and not differences from defaults; machine, launcher and logging stay out.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any

from scaling.app.conf_folder import conf_folder
from scaling.schema import (
    COUNTS,
    FLOPS,
    LEVEL,
    MOST_FLOPS,
    MOST_PARAMS,
    Range,
    Recipe,
    Seed,
    Shape,
    check_ranges,
    check_study,
    read_as,
    read_yaml,
    sha256_json,
)


def check(what: str, value: Any, legal: bool, fix: str) -> None:
    """Raise a ValueError of four parts: what, the value, what is legal, what to do."""
    if not legal:
        raise ValueError(f"{what}={value!r} {fix}")


def one_of(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices, which are named."""
    check(what, value, value in choices, f"is unknown; choose one of {', '.join(choices)}")


# Ends of ranges lie far beyond what has been trained: they refuse what no machine could hold.
DEEPEST = 1000  # layers; 126 is Llama 3 405B
WIDEST = 131_072  # of a layer, its heads and their width; 16,384 is Llama 3 405B
MOST_TOKENS = 2**24  # of a vocabulary, and of a context
MOST_BATCH = 2**32  # tokens or rows of a step
MOST_TEXT = 10**18  # tokens or bytes; all public text is about 1e14 tokens
MOST_RATE = 1e30  # of learning: one that is too high ends as diverged, which is a result
RATE = Range(0, MOST_RATE)
LIMIT = Range(0, MOST_TEXT, note="0 is no limit")
COUNT = Range(0, 10**12)
SECONDS = Range(0, 1e12)
SPIKE = Range(1, 1e9, above=True, also=(0,), note="10 is usual, 0 skips only what is not finite")
WEIGHT = Range(0, 1e6)
SHARE = Range(0, 1)
SHARE_BELOW_1 = Range(0, 1, below=True)
FORECAST = Range(-1e9, 1e9)  # what a law says, in nats or units of reward
PARAMETRIZATIONS = ("layerwise", "standard", "mup", "completep")


@dataclass(kw_only=True)
class ModelConfig:
    """A decoder's shape; a 0 is derived: heads from d_head, d_ff from d_model.

    `n_experts` of 0 is dense. With experts, each token takes `top_k` of them (2 by default) and
    `n_shared_experts` besides; `d_expert` divides d_ff among these, so that active parameters stay
    those of the dense model. `balance_loss` (Switch, Fedus et al. 2021: 1e-2) and `router_z_loss`
    (ST-MoE, Zoph et al. 2022: 1e-3) weigh the router's losses.

    `parametrization` says how the model changes with width and depth against the base shape
    (`base_width`, `base_depth`, `base_head`): see scaling.model.parametrization.
    """

    n_layer: Annotated[int, Range(1, DEEPEST)] = 2
    d_model: Annotated[int, Range(1, WIDEST)] = 32
    d_head: Annotated[int, Range(1, WIDEST)] = 16
    n_head: Annotated[int, Range(0, WIDEST, note="0 follows d_head")] = 0
    n_kv_head: Annotated[int, Range(0, WIDEST, note="0 is n_head")] = 0
    d_ff: Annotated[int, Range(0, 8 * WIDEST, note="0 follows d_model")] = 0
    mlp: str = "swiglu"
    norm: str = "rmsnorm"
    positions: str = "rope"
    tied: bool = True
    bias: bool = False
    embedding_norm: bool = True
    n_experts: Annotated[int, Range(2, 65_536, also=(0,), note="0 is dense")] = 0
    top_k: Annotated[int, Range(0, 65_536, note="0 is 2")] = 0
    d_expert: Annotated[int, Range(0, 8 * WIDEST, note="0 divides d_ff")] = 0
    n_shared_experts: Annotated[int, Range(0, 65_536)] = 0
    balance_loss: Annotated[float, WEIGHT] = 0.01
    router_z_loss: Annotated[float, WEIGHT] = 0.001
    parametrization: str = "layerwise"
    base_width: Annotated[int, Range(1, WIDEST)] = 32
    base_depth: Annotated[int, Range(1, DEEPEST)] = 2
    base_head: Annotated[int, Range(1, WIDEST)] = 32

    def __post_init__(self) -> None:
        """Resolve the derived widths, so that two ways to say a model are one identity."""
        check_ranges(self, "model")
        one_of("model.mlp", self.mlp, ("swiglu", "gelu"))
        one_of("model.norm", self.norm, ("rmsnorm", "layernorm"))
        one_of("model.positions", self.positions, ("rope", "learned", "sinusoidal"))
        one_of("model.parametrization", self.parametrization, PARAMETRIZATIONS)
        if not self.n_head:
            check(
                "model.d_model",
                self.d_model,
                self.d_model % self.d_head == 0,
                f"is not a multiple of model.d_head={self.d_head}; change one of them",
            )
            self.n_head = self.d_model // self.d_head
        self.n_kv_head = self.n_kv_head or self.n_head
        check(
            "model.n_kv_head",
            self.n_kv_head,
            self.n_head % self.n_kv_head == 0,
            f"does not divide model.n_head={self.n_head}; choose a divisor of it",
        )
        check(
            "model.d_head",
            self.d_head,
            self.positions != "rope" or self.d_head % 2 == 0,
            "is odd, but rotary positions turn pairs of dimensions; make it even",
        )
        self.d_ff = self.d_ff or (
            4 * self.d_model if self.mlp == "gelu" else 8 * -(-self.d_model // 3)
        )
        self._resolve_experts()

    def _resolve_experts(self) -> None:
        """Derive top_k and d_expert; refuse a mixture that cannot be."""
        if not self.n_experts:
            for name in ("top_k", "d_expert", "n_shared_experts"):
                check(
                    f"model.{name}",
                    getattr(self, name),
                    not getattr(self, name),
                    "needs experts; set model.n_experts to 2 or more, or leave it 0",
                )
            return
        self.top_k = self.top_k or min(2, self.n_experts)
        check(
            "model.top_k",
            self.top_k,
            1 <= self.top_k <= self.n_experts,
            f"must lie between 1 and model.n_experts={self.n_experts}",
        )
        check(
            "model.bias",
            self.bias,
            not self.bias,
            "is not there for stacked experts; set model.bias=false or model.n_experts=0",
        )
        self.d_expert = self.d_expert or max(
            1, round(self.d_ff / (self.top_k + self.n_shared_experts))
        )

    @property
    def plain(self) -> bool:
        """Whether it is the dense decoder whose passes are written out (scaling.cpu)."""
        return (
            (self.norm, self.mlp) == ("rmsnorm", "swiglu")
            and self.positions != "learned"
            and not self.bias
            and not self.n_experts
            and self.n_kv_head == self.n_head
        )

    def shape(self, *, vocab_size: int, context: int) -> Shape:
        """Return the countable shape at a vocabulary and context."""
        values = {
            k: v for k, v in dataclasses.asdict(self).items() if k in Shape.__dataclass_fields__
        }
        return Shape(**values, vocab_size=vocab_size, context=context)


def underived() -> ModelConfig:
    """Return a default model whose derived widths are still 0.

    Hydra merges a chosen model over the default: widths derived for the default would stay.
    """
    model = object.__new__(ModelConfig)
    for f in dataclasses.fields(ModelConfig):
        setattr(model, f.name, f.default)
    return model


@dataclass(kw_only=True)
class TokenizerConfig:
    """Byte-level byte-pair vocabulary, trained on the training part of the corpus."""

    vocab_size: Annotated[int, Range(264, MOST_TOKENS, note="256 bytes, 8 special")] = 1024
    sample_bytes: Annotated[int, Range(1, 1e15)] = 4_000_000

    def __post_init__(self) -> None:
        """Check that the 256 bytes and the special tokens fit."""
        check_ranges(self, "tokenizer")


TRUTHS = ("markov", "hmm", "zipf", "hierarchy")
OWN_TRUTH = {  # settings that one source alone reads, so that they are no part of another's cell
    "zipf": ("name_length", "exponent", "noise"),
    "hierarchy": ("rules", "branches", "depth"),
}
MOST_STATES = 4096
MOST_TUPLES = 2**24  # of a rule, and symbols of a sentence: what an array in memory holds
BYTES_ALONE = 264  # a vocabulary of single bytes: no merges, so that a symbol is a token


@dataclass(kw_only=True)
class TruthConfig:
    """A source of known entropy (scaling.data.synthetic).

    `markov` reads `order`, `hmm` reads `states`; each state's symbols are Dirichlet(concentration).
    `zipf` reads `name_length`, `exponent` and `noise`, `hierarchy` `rules`, `branches`, `depth`.
    """

    symbols: Annotated[int, Range(2, 62)] = 16
    order: Annotated[int, Range(1, 12)] = 2
    states: Annotated[int, Range(1, MOST_STATES)] = 64
    concentration: Annotated[float, Range(0, 1e6, above=True)] = 0.3
    name_length: Annotated[int, Range(1, 12)] = 2
    exponent: Annotated[float, Range(0, 1e3, above=True)] = 0.5
    noise: Annotated[float, SHARE_BELOW_1] = 0.0
    rules: Annotated[int, Range(1, 1e6)] = 2
    branches: Annotated[int, Range(2, 24)] = 2
    depth: Annotated[int, Range(1, 24)] = 6
    train_symbols: Annotated[int, Range(1, 1e12)] = 4_000_000
    test_symbols: Annotated[int, Range(1, 1e12)] = 200_000
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Check sizes."""
        check_ranges(self, "data.truth")
        check(
            "data.truth.order",
            self.order,
            self.symbols**self.order <= MOST_STATES,
            f"must leave {self.symbols}**order at most {MOST_STATES} states; lower it",
        )
        names = self.symbols ** (self.name_length + 1) // (self.symbols - 1)
        check(
            "data.truth.name_length",
            self.name_length,
            names <= MOST_STATES,
            f"must leave names of {self.symbols} symbols at most {MOST_STATES} states; lower it",
        )
        for name, base in (("branches", self.symbols), ("depth", self.branches)):
            value = getattr(self, name)
            check(
                f"data.truth.{name}",
                value,
                base**value <= MOST_TUPLES,
                f"must leave {base}**{name} at most {MOST_TUPLES}; lower it",
            )
        check(
            "data.truth.rules",
            self.rules,
            self.rules <= self.symbols ** (self.branches - 1),
            "are more than there are different tuples for, symbols^(branches - 1) ="
            f" {self.symbols ** (self.branches - 1)}",
        )


@dataclass(kw_only=True)
class DataConfig:
    """Where text comes from: `stdlib` (the running interpreter's own source), files, or a hub set.

    Those of TRUTHS are made, with an entropy that is known: `truth` shapes them.

    `source: files` reads `train` (folders, globs or files: .txt .py .md .jsonl[.gz|.xz] .parquet),
    and `test` likewise or, when that is empty, a fixed hash share of the training documents.
    `sha256` is the corpus' content: filled in when it is read; a given one must be met.

    `weights` make a mixture: the share of training windows drawn from each entry of `train`, each
    with epochs of its own. `unique_tokens` keeps that many training tokens, the same for every
    model and nested from one number to the next, to measure repetition (Muennighoff et al. 2023).
    `mask_documents` keeps attention within a document (Llama 3, 2407.21783, section 3.2).
    """

    source: str = "stdlib"
    train: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    text_key: str = "text"
    test_share: Annotated[float, Range(0, 1, above=True, below=True)] = 0.08
    context: Annotated[int, Range(2, MOST_TOKENS)] = 128
    max_bytes: Annotated[int, Range(0, MOST_TEXT, note="0 is all")] = 0
    weights: list[Annotated[float, Range(0, 1e12, above=True)]] = field(default_factory=list)
    unique_tokens: Annotated[int, Range(0, MOST_TEXT, note="0 is all there are")] = 0
    mask_documents: bool = False
    truth: TruthConfig = field(default_factory=TruthConfig)
    sha256: str = ""

    def __post_init__(self) -> None:
        """Check source and shares."""
        if isinstance(self.truth, dict):  # as a record keeps it
            self.truth = TruthConfig(**self.truth)
        check_ranges(self, "data")
        one_of("data.source", self.source, ("stdlib", "files", "hub", *TRUTHS))
        check(
            "data.train",
            self.train,
            self.source not in ("files", "hub") or bool(self.train),
            f"is empty; data.source={self.source} needs paths or a hub name",
        )
        check(
            "data.weights",
            self.weights,
            len(self.weights) in (0, len(self.train)),
            f"must be a positive number for each of the {len(self.train)} entries of data.train",
        )


@dataclass(kw_only=True)
class OptimConfig:
    """The optimiser and the rule for its rate and batch; `sweeps/LOG.md` says how they were tuned.

    `peak_lr` and `batch_tokens` of 0 follow the rule (scaling.schema.Recipe). `muon` takes hidden
    matrices, at AdamW's rates (scaling.optim.muon); AdamW keeps the rest. `lr_base_width` and
    `lr_width_exponent` are the rule of model.parametrization=layerwise.

    A step whose loss or gradient is not finite is skipped, and with a `spike_factor` one whose
    gradient norm is that many times the running mean (as PaLM skipped batches, Chowdhery et al.
    2022, section 5.1); after more than `max_skipped` of them the cell has diverged.
    """

    name: str = "adamw"
    peak_lr: Annotated[float, Range(0, MOST_RATE, note="0 follows the rule")] = 0.0
    batch_tokens: Annotated[int, Range(0, MOST_BATCH, note="0 follows the rule")] = 0
    lr_base: Annotated[float, Range(0, MOST_RATE, above=True)] = 0.006
    lr_base_width: Annotated[int, Range(1, WIDEST)] = 32
    lr_width_exponent: Annotated[float, Range(-4, 4)] = 1.0
    lr_embedding: Annotated[float, RATE] = 0.02
    batch_base: Annotated[int, Range(1, MOST_BATCH)] = 256
    batch_base_params: Annotated[float, Range(0, MOST_PARAMS, above=True)] = 200_000.0
    batch_exponent: Annotated[float, Range(-4, 4)] = 0.5
    beta1: Annotated[float, SHARE_BELOW_1] = 0.9
    beta2: Annotated[float, SHARE_BELOW_1] = 0.95
    eps: Annotated[float, Range(0, 1, above=True)] = 1e-8
    weight_decay: Annotated[float, Range(0, 1e4)] = 0.1
    clip: Annotated[float, Range(0, 1e9, note="0 clips nothing")] = 1.0
    momentum: Annotated[float, SHARE_BELOW_1] = 0.95
    spike_factor: Annotated[float, SPIKE] = 0.0
    max_skipped: Annotated[int, COUNT] = 20

    def __post_init__(self) -> None:
        """Check the optimiser's name and numbers."""
        check_ranges(self, "optim")
        one_of("optim.name", self.name, ("adamw", "muon"))

    def recipe(self, model: ModelConfig) -> Recipe:
        """Return the constants of the rule for a model's parametrisation."""
        return Recipe.from_config(dataclasses.asdict(self), dataclasses.asdict(model))


@dataclass(kw_only=True)
class ScheduleConfig:
    """`wsd`: warm-up, constant, then decay over the last `decay` of each budget (a branch).

    `cosine` decays to `floor` times the peak at the budget's end and trains each cell alone.
    The decay of wsd is 1 - sqrt (Hägele et al. 2024, 2405.18392) or linear.
    """

    name: str = "wsd"
    warmup_steps: Annotated[int, COUNT] = 10
    decay: Annotated[float, Range(0, 1, above=True)] = 0.2
    decay_shape: str = "sqrt"
    floor: Annotated[float, SHARE] = 0.0

    def __post_init__(self) -> None:
        """Check names and numbers."""
        check_ranges(self, "schedule")
        one_of("schedule.name", self.name, ("wsd", "cosine"))
        one_of("schedule.decay_shape", self.decay_shape, ("sqrt", "linear"))


@dataclass(kw_only=True)
class BudgetConfig:
    """How much a cell trains: exactly one of FLOPs, tokens, tokens per parameter (of `count`)."""

    flops: Annotated[float, Range(0, MOST_FLOPS, above=True)] | None = None
    n_tokens: Annotated[float, Range(0, MOST_TEXT, above=True)] | None = None
    tokens_per_param: Annotated[float, Range(0, 1e9, above=True)] | None = None
    count: str = "with_head"

    def __post_init__(self) -> None:
        """Check the count and that what is set is positive."""
        check_ranges(self, "budget")
        one_of("budget.count", self.count, COUNTS)

    def chosen(self) -> tuple[str, float]:
        """Return the one budget that is set; ValueError when none or several are."""
        found = {
            n: getattr(self, n)
            for n in ("flops", "n_tokens", "tokens_per_param")
            if getattr(self, n) is not None
        }
        if len(found) != 1:
            text = " and ".join(f"{k}={v:g}" for k, v in found.items()) or "nothing"
            raise ValueError(
                f"budget sets {text}; set exactly one of flops, n_tokens, tokens_per_param "
                f"(got {len(found)})"
            )
        return next(iter(found.items()))


@dataclass(kw_only=True)
class EvalConfig:
    """The fixed held-out tokens, the same for every cell, and how many a curve's row takes.

    `curve_points` was never read, but is part of every cell's identity: it stays as a constant.
    """

    test_tokens: Annotated[int, Range(1, MOST_TEXT)] = 65_536
    curve_points: Annotated[int, Range(24, 24, note="nothing reads it; leave it out")] = 24
    curve_tokens: Annotated[int, Range(1, MOST_TEXT)] = 8_192

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "eval")


@dataclass(kw_only=True)
class MachineConfig:
    """What may differ between machines without changing what is measured.

    `compile` compiles each block (for GPUs; on a CPU the passes written out are faster).
    `deterministic` has every operation give the same bits each time, or refuse; on a CPU they do
    without it, for a given number of threads. `micro_batch` rows go through the model at once (0:
    all of a step's), the gradients add up; `activation_checkpointing` computes each block's
    activations again in the backward pass instead of keeping them. `ranks` processes, each with a
    GPU or `threads` of its own, train a model together (scaling.train.local_ranks), each on its
    share of a step's rows; stages after pretraining take one. `shard` divides weights, gradients
    and moments among the ranks (FSDP2; Rajbhandari et al. 2020, stage 3), whose folder `runs` must
    then be one that all of them see. Ranks wait `meet_seconds` for each other at the start; one
    that gives no sign of life, or that the others wait for, longer than `hang_seconds` ends the
    run, named.

    `stack` bounds how many small trunks of one shape train together in one process
    (scaling.stacked.turns; the seconds of a record are then its share). -1 leaves it to what was
    measured, 0 is never, a number holds for a model of any size and on any device.

    A sweep ends a process that it has seen stopped (SIGSTOP) for `stopped_seconds`, and one that
    has made no step, and scored and sampled nothing, for `hang_seconds` and for twenty times its
    slowest step before; its cells go on from their checkpoints.
    """

    device: str = "auto"
    precision: str = "fp32"
    compile: bool = False
    deterministic: bool = False
    micro_batch: Annotated[int, Range(0, MOST_BATCH, note="0 is all rows of a step at once")] = 0
    activation_checkpointing: bool = False
    shard: bool = False
    ranks: Annotated[int, Range(1, 100_000, note="1 is alone")] = 1
    meet_seconds: Annotated[float, Range(0, 1e7, above=True)] = 600.0
    threads: Annotated[int, Range(1, 4096)] = 1
    workers: Annotated[int, Range(0, 4096, note="0 is one a core")] = 0
    cache: str = ""
    checkpoint_seconds: Annotated[float, SECONDS] = 60.0
    stack: Annotated[int, Range(-1, 4096, note="-1 is as measured, 0 never")] = -1
    stopped_seconds: Annotated[float, Range(0, 1e7, above=True)] = 60.0
    hang_seconds: Annotated[float, Range(0, 1e7, above=True)] = 1800.0

    def __post_init__(self) -> None:
        """Check device, precision and numbers."""
        check_ranges(self, "machine")
        one_of("machine.device", self.device, ("auto", "cpu", "cuda"))
        one_of("machine.precision", self.precision, ("fp32", "bf16"))


@dataclass(kw_only=True)
class LogConfig:
    """The curve on disk is always written; wandb mirrors it.

    `health` adds activations, attention logits and the size of a step to its rows.
    """

    health: bool = True
    every_seconds: Annotated[float, SECONDS] = 10.0
    wandb: str = "offline"
    project: str = "scaling"
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check the wandb mode and the numbers."""
        check_ranges(self, "log")
        one_of("log.wandb", self.wandb, ("offline", "online", "disabled"))


@dataclass(kw_only=True)
class LauncherNumbers:
    """The numbers among a launcher's options (conf/hydra/launcher), which Hydra leaves untyped."""

    workers: Annotated[int, Range(0, 4096, note="0 is one a core or GPU")] = 0
    timeout_min: Annotated[float, Range(1, 1e6)] = 60
    signal_seconds: Annotated[float, Range(1, 1e6)] = 90
    cpus_per_task: Annotated[int, Range(1, 100_000)] = 1
    mem_gb: Annotated[float, Range(0, 1e6, above=True)] = 4
    gpus_per_node: Annotated[int, Range(0, 1000)] = 0
    array_parallelism: Annotated[int, Range(1, 1e6)] = 64
    array_size: Annotated[int, Range(0, 1e6, note="0 is the cluster's limit")] = 0
    poll_seconds: Annotated[float, Range(0, 1e6, above=True)] = 5


def check_launcher(options: dict[str, Any]) -> None:
    """Refuse a launcher's option that is out of its range; null leaves one to the cluster."""
    known = {f.name for f in dataclasses.fields(LauncherNumbers)}
    given = {k: v for k, v in options.items() if k in known}
    check_ranges(LauncherNumbers(**given), "hydra.launcher")


@dataclass(kw_only=True)
class GridConfig:
    """Which cells of the sweep's product are kept: limits on what a cell is, 0 for no limit.

    `max_flops_repeated` bounds the cells of seeds other than 0: repeats where they are cheap.
    """

    min_steps: Annotated[int, LIMIT] = 0
    min_tokens_per_param: Annotated[float, LIMIT] = 0.0
    max_tokens_per_param: Annotated[float, LIMIT] = 0.0
    max_flops: Annotated[float, FLOPS] = 0.0
    max_flops_repeated: Annotated[float, FLOPS] = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "grid")


@dataclass(kw_only=True)
class TargetConfig:
    """What `hydra/sweeper=design` chooses cells for: the forecast at `flops` of a final run.

    It ends at `precision`: half the width of the forecast's interval at `level` in nats
    (`quantity=loss`), or that of the optimal N as a factor less one (`params`); or at `max_flops`
    of the study. `start` cells are spread by the law `prior`, then `batch` are chosen at a time.
    """

    flops: Annotated[float, FLOPS] = 0.0
    quantity: str = "loss"
    precision: Annotated[float, Range(0, 1e3, note="0 leaves it open")] = 0.0
    max_flops: Annotated[float, FLOPS] = 0.0
    level: Annotated[float, LEVEL] = 0.9
    start: Annotated[int, Range(1, 100_000)] = 12
    batch: Annotated[int, Range(1, 100_000)] = 4
    prior: str = "hoffmann2022"
    form: str = "chinchilla"
    count: str = "total"

    def __post_init__(self) -> None:
        """Check the names and ranges."""
        check_ranges(self, "target")
        one_of("target.quantity", self.quantity, ("loss", "params"))
        one_of("target.count", self.count, ("total", "non_embedding", "with_head", "active"))


@dataclass(kw_only=True)
class SftPlan:
    """Supervised fine-tuning on prompt/completion pairs, loss on the completion alone.

    `data` is a JSONL file, a hub set `hub:NAME[:CONFIG[:SPLIT]]` or `docstrings` of the corpus;
    held-out pairs are those of `test`, else a share of the prompts of `data`. The `template` chat
    puts prompts that are no dialogues into one (scaling.data.chat_template), for all later stages
    too. `peak_lr` of 0 is `lr_fraction` of pretraining's peak (scaling.schema.tuning_lr).

    `packing` draws batches at random and puts several examples into a row of the context, each
    attending to itself alone; without it a batch's rows are of like length, one example each.
    """

    method: str = "full"
    data: str = "docstrings"
    test: str = ""
    examples: Annotated[int, Range(1, 1e12)] = 2048
    epochs: Annotated[int, Range(1, 1e6)] = 2
    batch_examples: Annotated[int, Range(1, 1e9)] = 32
    peak_lr: Annotated[float, Range(0, MOST_RATE, note="0 follows lr_fraction")] = 0.0
    lr_fraction: Annotated[float, Range(0, 1e3, above=True)] = 0.2
    lora_rank: Annotated[int, Range(1, WIDEST)] = 8
    packing: bool = False
    template: str = ""
    forecast_loss: Annotated[float, FORECAST] = 0.0
    forecast_interval: list[Annotated[float, Range(-1e9, 1e9)]] = field(default_factory=list)
    forecast_level: Annotated[float, SHARE_BELOW_1] = 0.0
    seed: Seed = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "sft")


@dataclass(kw_only=True)
class RewardPlan:
    """Reward model: Bradley-Terry on pairs sampled from the fine-tuned model.

    `data` may be a JSONL file or hub set of preferences instead, with held-out ones in `test`.
    `policy` is a fine-tuned model's folder, or a study whose best one it is, that samples the pairs
    instead, so that reward models of several sizes learn from the same; `policy_sha256` are its
    weights, filled in when they are read. `peak_lr` as for SftPlan.
    """

    data: str = "gold"
    test: str = ""
    policy: str = ""
    policy_sha256: str = ""
    pairs: Annotated[int, Range(1, 1e12)] = 2048
    epochs: Annotated[int, Range(1, 1e6)] = 1
    batch_pairs: Annotated[int, Range(1, 1e9)] = 32
    samples_per_prompt: Annotated[int, Range(1, 100_000)] = 4
    peak_lr: Annotated[float, Range(0, MOST_RATE, note="0 follows lr_fraction")] = 0.0
    lr_fraction: Annotated[float, Range(0, 1e3, above=True)] = 0.5
    forecast_loss: Annotated[float, FORECAST] = 0.0
    forecast_interval: list[Annotated[float, Range(-1e9, 1e9)]] = field(default_factory=list)
    forecast_level: Annotated[float, SHARE_BELOW_1] = 0.0
    seed: Seed = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "reward")


@dataclass(kw_only=True)
class PpoPlan:
    """PPO with a per-token KL penalty to the fine-tuned model; KL in nats per sequence.

    `kl_coefficient` is the first one where it is `adaptive`, by default that of the budget
    (scaling.schema.first_coefficient); `peak_lr` as for SftPlan.

    `estimator` says what an episode is compared with: the critic (`gae`, Schulman et al. 2016), or
    the other completions of its prompt, `group` in all, by their mean and deviation (`grpo`, Shao
    et al. 2024, 2402.03300) or the mean of the others (`rloo`, Ahmadian et al. 2024, 2402.14740).
    `pretrain_mix` weighs the loss (nats/token) of pretraining windows mixed in, the gamma of
    PPO-ptx (Ouyang et al. 2022, eq. 2) where rewards are averaged over tokens. Every `eval_updates`
    updates held-out prompts are sampled and scored too (0: before and after alone). In a sweep
    `reward_model` names a rung of conf/model whose reward model it is, trained like the policy's
    (empty: of the policy's shape). `judge=gold` optimises the programmatic judge itself, made
    standard on the fine-tuned model: the control of over-optimisation.
    """

    estimator: str = "gae"
    group: Annotated[int, Range(1, 1e6)] = 4
    kl_budget: Annotated[float, Range(0, 1e6, above=True)] = 6.0
    kl_coefficient: Annotated[float, Range(0, 1e9)] | None = None
    adaptive: bool = True
    episodes: Annotated[int, Range(1, 1e12)] = 2048
    batch_episodes: Annotated[int, Range(1, 1e9)] = 64
    minibatch_episodes: Annotated[int, Range(1, 1e9)] = 64
    inner_epochs: Annotated[int, Range(1, 1e6)] = 2
    clip: Annotated[float, Range(0, 1e3, above=True)] = 0.2
    peak_lr: Annotated[float, Range(0, MOST_RATE, note="0 follows lr_fraction")] = 0.0
    lr_fraction: Annotated[float, Range(0, 1e3, above=True)] = 0.1
    gae_lambda: Annotated[float, SHARE] = 0.95
    discount: Annotated[float, SHARE] = 1.0
    value_coefficient: Annotated[float, WEIGHT] = 0.5
    entropy_coefficient: Annotated[float, WEIGHT] = 0.0
    pretrain_mix: Annotated[float, WEIGHT] = 0.0
    missing_end_penalty: Annotated[float, WEIGHT] = 1.0
    temperature: Annotated[float, Range(0, 1e3, above=True)] = 1.0
    max_new_tokens: Annotated[int, Range(1, MOST_TOKENS)] = 64
    eval_updates: Annotated[int, COUNT] = 0
    reward_model: str = ""
    judge: str = "reward"
    forecast_gain: Annotated[float, FORECAST] = 0.0
    forecast_interval: list[Annotated[float, Range(-1e9, 1e9)]] = field(default_factory=list)
    forecast_level: Annotated[float, SHARE_BELOW_1] = 0.0
    seed: Seed = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the estimator, its groups and the numbers."""
        check_ranges(self, "ppo")
        one_of("ppo.estimator", self.estimator, ("gae", "grpo", "rloo"))
        one_of("ppo.judge", self.judge, ("reward", "gold"))
        check(
            "ppo.group",
            self.group,
            self.estimator == "gae" or (self.group > 1 and self.batch_episodes % self.group == 0),
            f"must be 2 or more and divide ppo.batch_episodes={self.batch_episodes}",
        )

    @property
    def samples(self) -> int:
        """Completions that a step samples of each of its prompts."""
        return 1 if self.estimator == "gae" else self.group


def rung(name: str, like: ModelConfig) -> ModelConfig:
    """Return the model of conf/model/NAME.yaml, in all else as `like`; ValueError for no rung."""
    folder = conf_folder() / "model"
    names = sorted(p.stem for p in folder.glob("*.yaml"))
    if name not in names:
        raise ValueError(f"ppo.reward_model={name} is no rung; choose one of {', '.join(names)}")
    shape = read_yaml(folder / f"{name}.yaml")
    derived = dict.fromkeys(("n_head", "n_kv_head", "d_ff", "top_k", "d_expert"), 0)
    return ModelConfig(
        **{**dataclasses.asdict(like), **derived, **{str(k): shape[k] for k in shape}}
    )


SCIENCE = ("model", "tokenizer", "data", "optim", "schedule", "budget", "eval", "seed")
STARTS_FROM = {"pretrain": "", "sft": "pretrain", "reward": "sft", "ppo": "reward"}  # by stage
SAMPLING = ("max_new_tokens", "temperature")
OPTIONAL = ("packing", "template")  # of a stage's settings, younger than its records


@dataclass(kw_only=True)
class CellConfig:
    """One cell: the science part, and where and how it runs.

    `stage` of `sft`, `reward` or `ppo` trains that stage of the model that the rest describes; what
    it starts from is trained first where no study of `runs` has it. `detach` submits and returns;
    `retry` is how often a failed cell is tried again; `cells_per_job` lets small cells share a job;
    `branches=jobs` gives every branch of a trunk a job of its own; `force` lets PPO run on a reward
    model whose accuracy is at chance.
    """

    study: str = "quick"
    model: ModelConfig = field(default_factory=underived)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    seed: Seed = 0
    stage: str = "pretrain"
    sft: SftPlan = field(default_factory=SftPlan)
    reward: RewardPlan = field(default_factory=RewardPlan)
    ppo: PpoPlan = field(default_factory=PpoPlan)
    grid: GridConfig = field(default_factory=GridConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    log: LogConfig = field(default_factory=LogConfig)
    runs: str = "runs"
    dry_run: bool = False
    detach: bool = False
    retry: Annotated[int, COUNT] = 0
    cells_per_job: Annotated[int, Range(0, 1e6, note="0 is one trunk a job")] = 0
    branches: str = "trunk"
    force: bool = False

    def __post_init__(self) -> None:
        """Derive the model's widths; check how the cells are run."""
        check_ranges(self)
        check_study(self.study)
        self.model.__post_init__()
        one_of("stage", self.stage, tuple(STARTS_FROM))
        one_of("branches", self.branches, ("trunk", "jobs"))
        check(
            "tokenizer.vocab_size",
            self.tokenizer.vocab_size,
            self.data.source not in TRUTHS or self.tokenizer.vocab_size == BYTES_ALONE,
            f"merges symbols of data={self.data.source}; set tokenizer.vocab_size={BYTES_ALONE}",
        )
        check(
            "optim.name",
            self.optim.name,
            not (self.machine.shard and self.optim.name == "muon"),
            "needs whole matrices; machine.shard=true leaves each rank a part: take adamw",
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CellConfig":
        """Build a cell from what `dataclasses.asdict` made of it, here or in an earlier version.

        A setting that this version does not know is refused: the cell would be another one.
        """
        fix = "give the sweep's command again"
        return read_as(cls, values, source="job", noun="cell", fix=fix, settings=True)

    def science(self) -> dict[str, Any]:
        """Return the part that makes the cell what it is, complete."""
        values = dataclasses.asdict(self)
        found = {name: values[name] for name in SCIENCE}
        for source, names in OWN_TRUTH.items():
            if self.data.source != source:
                for name in names:
                    del found["data"]["truth"][name]
        if self.stage != "pretrain":
            found |= {"stage": self.stage, "sft": described(self.sft)}
        if self.stage in ("reward", "ppo"):
            found["reward"] = {k: v for k, v in described(self.reward).items() if k != "policy"}
            found["sampling"] = {name: values["ppo"][name] for name in SAMPLING}
        if self.stage == "ppo":
            ours = described(self.ppo)
            del ours["reward_model"]  # a name; its values are told where they are not the policy's
            if self.ppo.judge == "reward":
                del ours["judge"]  # cells older than the control stay what they were
            found["ppo"] = ours
            if (before := self.before()) and before.model != self.model:
                found["reward_model"] = dataclasses.asdict(before.model)
        return found

    def run_id(self) -> str:
        """Ten hex digits of the science part's hash."""
        return sha256_json(self.science())[:10]

    def before(self) -> "CellConfig | None":
        """Return the cell that this one starts from; None for pretraining.

        PPO starts from its reward model, which may be of another shape (`ppo.reward_model`).
        """
        earlier, name = STARTS_FROM[self.stage], self.ppo.reward_model
        model = rung(name, self.model) if name and self.stage == "ppo" else self.model
        return dataclasses.replace(self, stage=earlier, model=model) if earlier else None

    def body(self) -> "CellConfig":
        """Return the pretraining that this cell comes from, itself if it is one."""
        return dataclasses.replace(self, stage="pretrain")

    def trunk_id(self) -> str:
        """Ten hex digits of what the branches of a trunk share: everything but the budget.

        A cosine cell is its own trunk, since its schedule needs the budget; the stages of a model
        have its trunk.
        """
        if self.stage != "pretrain":
            return self.body().trunk_id()
        if self.schedule.name != "wsd":
            return self.run_id()
        shared = {k: v for k, v in self.science().items() if k != "budget"}
        return sha256_json(shared)[:10]


def described(block: Any) -> dict[str, Any]:
    """Return a stage's settings, without the reasons and forecasts that a plan adds to them.

    Those that change nothing where they are off are left out there.
    """
    values = dataclasses.asdict(block).items()
    kept = {k: v for k, v in values if k != "reasons" and not k.startswith("forecast_")}
    return {k: v for k, v in kept.items() if v or k not in OPTIONAL}


# --- the final run: what plan.yaml holds and scaling.final executes -----------------------------


@dataclass(kw_only=True)
class PretrainPlan:
    """The planned pretraining; `params_target` is the law's N before the shape is rounded."""

    params_target: Annotated[float, Range(0, MOST_PARAMS)] = 0.0
    params: Annotated[int, Range(0, MOST_PARAMS)] = 0
    count: str = "with_head"
    tokens: Annotated[int, Range(0, MOST_TEXT)] = 0
    flops: Annotated[float, FLOPS] = 0.0
    seconds: Annotated[float, Range(0, MOST_FLOPS)] = 0.0
    model: ModelConfig = field(default_factory=underived)
    context: Annotated[int, Range(2, MOST_TOKENS)] = 128
    peak_lr: Annotated[float, RATE] = 0.0
    batch_tokens: Annotated[int, Range(0, MOST_BATCH)] = 0
    warmup_steps: Annotated[int, COUNT] = 30
    weight_decay: Annotated[float, Range(0, 1e4)] = 0.1
    schedule: str = "wsd"
    decay: Annotated[float, Range(0, 1, above=True)] = 0.2
    seed: Seed = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "pretrain")


@dataclass(kw_only=True)
class PlanBudget:
    """What may be spent, and on what; seconds follow from the measured FLOP/s."""

    flops: Annotated[float, FLOPS] = 0.0
    device: str = ""
    flops_per_second: Annotated[float, FLOPS] = 0.0
    seconds: Annotated[float, Range(0, MOST_FLOPS)] = 0.0
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "budget")


@dataclass(kw_only=True)
class Forecast:
    """Test loss of the planned run in nats/token, with its prediction interval."""

    test_loss: Annotated[float, FORECAST] = 0.0
    interval: list[Annotated[float, Range(-1e9, 1e9)]] = field(default_factory=list)
    level: Annotated[float, SHARE_BELOW_1] = 0.95
    bits_per_byte: Annotated[float, FORECAST] | None = None
    bits_per_byte_interval: list[Annotated[float, Range(-1e9, 1e9)]] = field(default_factory=list)
    curve: list[Any] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "forecast")


@dataclass(kw_only=True)
class FinalConfig:
    """plan.yaml, as `scaling.final` reads it; `cell` is the study's config that the plan keeps.

    `reasons` are those of blocks that have no room for their own. `force` lets a run pass without
    its confirmation; `stop_outside` ends one that leaves the band of its forecast curve twice in a
    row, its checkpoint kept.
    """

    schema: Annotated[int, Range(1, 1000)] = 1
    study: str = "quick"
    runs: str = "runs"
    budget: PlanBudget = field(default_factory=PlanBudget)
    forecast: Forecast = field(default_factory=Forecast)
    confirmation: dict[str, Any] = field(default_factory=dict)
    extrapolation: Annotated[float, Range(0, MOST_FLOPS)] = 0.0
    steps: list[Any] = field(default_factory=list)
    laws: list[Any] = field(default_factory=list)
    mixtures: list[Any] = field(default_factory=list)
    stage_laws: dict[str, list[str]] = field(default_factory=dict)
    pretrain: PretrainPlan = field(default_factory=PretrainPlan)
    cost: dict[str, Any] = field(default_factory=dict)
    sft: SftPlan = field(default_factory=SftPlan)
    reward: RewardPlan = field(default_factory=RewardPlan)
    ppo: PpoPlan = field(default_factory=PpoPlan)
    cell: dict[str, Any] = field(default_factory=dict)
    law: dict[str, Any] = field(default_factory=dict)
    alarms: list[dict[str, str]] = field(default_factory=list)
    made_from: dict[str, str] = field(default_factory=dict)
    command: str = ""
    versions: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)
    machine: MachineConfig = field(default_factory=MachineConfig)
    log: LogConfig = field(default_factory=LogConfig)
    plan: str = ""
    stages: str = "pretrain,sft,reward,ppo"
    resume: bool = True
    force: bool = False
    stop_outside: bool = False

    def __post_init__(self) -> None:
        """Check the numbers; refuse a study's name that leads out of the runs folder."""
        check_ranges(self)
        check_study(self.study)
