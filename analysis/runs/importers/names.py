"""Names under which logs hold the loss, the parameters, the tokens, the rate and the batch.

A name is compared in lower case, with `_` for other signs. The names are those of the tools'
sources and of public configurations; whatever else a log calls them, `columns.*` names.
"""

import re
from collections.abc import Iterable

PARAMS = (
    "params", "n_params", "num_params", "nparams", "parameters", "n_parameters", "num_parameters",
    "total_params", "total_parameters", "params_total", "model_params", "model_parameters",
    "model_num_parameters", "param_count", "parameter_count", "model_size",
)  # fmt: skip
TOKENS = (
    "tokens", "n_tokens", "num_tokens", "n_tokens_seen", "tokens_seen", "total_tokens",
    "train_tokens", "training_tokens", "tokens_total", "num_input_tokens_seen", "consumed_tokens",
    "throughput_total_tokens",
)  # fmt: skip
BATCH = (
    "batch_tokens", "tokens_per_step", "tokens_per_batch", "tokens_per_iter", "total_batch_size",
    "batch_size_tokens", "global_batch_tokens", "num_tokens_per_train_step",
)  # fmt: skip
SEQUENCES = (
    "global_batch_size", "global_train_batch_size", "training_global_batch_size",
    "train_batch_size", "batch_sequences",
)  # fmt: skip
CONTEXT = (
    "seq_len", "seq_length", "sequence_length", "max_seq_len", "max_sequence_length", "context",
    "context_length", "block_size", "model_max_sequence_length", "training_seq_len",
    "data_context",
)  # fmt: skip
FLOPS = ("flops", "train_flops", "training_flops", "total_flops", "total_training_flops")
LR_SETTING = (
    "peak_lr", "learning_rate", "lr", "max_lr", "max_learning_rate", "optimizer_lr",
    "optim_lr", "optim_peak_lr", "optimizer_learning_rate",
)  # fmt: skip
RELATIVE_RATE = "lrm"  # nanochat's rate, a multiple of several peak rates
LR_METRIC = re.compile(r"(^|_)(lr|lrm|learning_rate)(_|$)")
PLANNED_STEPS = (
    "max_steps", "total_steps", "num_iterations", "training_steps", "max_iters", "train_iters",
    "num_train_steps",
)  # fmt: skip
SEED = ("seed", "random_seed", "data_seed")
SCALES = {  # the end of a name that says a unit of the value
    r"(_m|_millions?|_in_millions)$": 1e6,
    r"(_b|_billions?|_in_billions|_bn)$": 1e9,
}
HELD_OUT = re.compile(r"(^|_)(eval|evaluation|val|valid|validation|test|heldout|held_out|dev)(_|$)")
LOSS = re.compile(
    r"(^|_)(loss|nll|ce|cross_?entropy|crossentropyloss|bpb|ppl|perplexity|bits_per_(byte|token))(_|$)"
)
EXPONENTIAL = re.compile(r"(^|_)(ppl|perplexity|bpb|bits_per_(byte|token))(_|$)")
NO_LOSS = re.compile(
    r"(^|_)(runtime|seconds|time|samples|steps|num|count|acc|accuracy|stderr)(_|$)"
)


def plain(name: str) -> str:
    """Return a name in lower case with `_` for capitals' starts and other signs."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", apart.lower()).strip("_")


def scale_of(name: str) -> tuple[str, float]:
    """Return a plain name without the unit at its end, and that unit's factor."""
    for ending, factor in SCALES.items():
        if re.search(ending, name):
            return re.sub(ending, "", name), factor
    return name, 1.0


def is_held_out_loss(name: str) -> bool:
    """Return whether a metric is by its name a loss on text that is not trained on."""
    text = plain(name)
    return bool(HELD_OUT.search(text) and LOSS.search(text) and not NO_LOSS.search(text))


def is_training_loss(name: str) -> bool:
    """Return whether a metric is by its name a loss and none on held-out text."""
    text = plain(name)
    return bool(LOSS.search(text) and not HELD_OUT.search(text) and not NO_LOSS.search(text))


def named(names: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Return the names whose plain form is a wanted one, in the order of the wanted ones.

    The last part of a dotted name counts too, after whole names.
    """
    whole = {name: scale_of(plain(name))[0] for name in names}
    ends = {name: scale_of(plain(re.split(r"[./]", name)[-1]))[0] for name in whole}
    return [n for forms in (whole, ends) for w in wanted for n, form in forms.items() if form == w]
