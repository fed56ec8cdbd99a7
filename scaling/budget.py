"""Translate a cell's config into numbers: shape, tokens, steps, learning rate, FLOPs, memory.

The one module that knows both layers and widths, and N, D and C.
"""

import math
from dataclasses import dataclass, replace

from scaling.config import LR_POWERS, CellConfig, FinalConfig
from scaling.schema import Branch, Shape, training_length, training_memory_bytes, tuning_lr

LEAST_BRANCH_STEPS = 2  # of a branch with another batch: one at the whole rate, one that decays


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The numbers of a cell. Tokens fill whole steps; FLOPs are exact for these tokens.

    batch_tokens, peak_lr: of the cell's own steps; a branch with another batch (`branch.at_tokens`)
        leaves a trunk whose batch has `rows` rows of `context` tokens, at `trunk_lr`
    own_rate: peak_lr over trunk_lr, 1 for other cells
    rows: rows of a step of the trunk, which pass at once
    leaves: the step at which the cell leaves its trunk
    decay_start: the step at which the learning rate begins to fall
    flops, flops_6nd: all FLOPs of the training, and their approximation 6 N D
    memory_bytes: of one device, for the rows that pass at once (scaling.schema.memory)
    copied_bytes: memory of the machine that copies take beside it
    """

    shape: Shape
    n_tokens: int
    n_steps: int
    batch_tokens: int
    rows: int
    peak_lr: float
    trunk_lr: float
    own_rate: float
    warmup_steps: int
    leaves: int
    decay_start: int
    flops: float
    flops_6nd: float
    memory_bytes: int
    copied_bytes: int

    @property
    def tokens_per_param(self) -> float:
        """D/N with N the matrices that multiply, head included."""
        return self.n_tokens / self.shape.params.with_head

    def tokens_at(self, step: int) -> int:
        """Return the tokens of the first `step` steps, of the trunk and of the cell's own."""
        own = max(0, step - self.leaves)
        return (step - own) * self.rows * self.shape.context + own * self.batch_tokens


def resolve(cell: CellConfig) -> Resolved:
    """Work out the numbers of a cell.

    Raises ValueError for a budget below half a step, and for a batch that is no whole number of
    rows or that the ranks cannot share.
    """
    shape = cell.model.shape(vocab_size=cell.tokenizer.vocab_size, context=cell.data.context)
    recipe = cell.optim.recipe(cell.model)
    batch = cell.optim.batch_tokens or recipe.batch_tokens(shape.params.active_body, shape.context)
    if batch % shape.context:
        raise ValueError(
            f"optim.batch_tokens={batch} is not a multiple of data.context={shape.context}; "
            f"set {shape.context * max(1, round(batch / shape.context))}"
        )
    rows_per_rank(batch // shape.context, cell.machine.ranks)
    steps = _steps(cell, shape, batch)
    n_tokens = steps.n_tokens
    own_rate = cell.branch.batch_factor ** LR_POWERS[cell.branch.lr_rule]
    trunk_lr = cell.optim.peak_lr or recipe.peak_lr(shape.d_model)
    return Resolved(
        shape=shape,
        n_tokens=n_tokens,
        n_steps=steps.ends,
        batch_tokens=batch * cell.branch.batch_factor,
        rows=batch // shape.context,
        peak_lr=trunk_lr * own_rate,
        own_rate=own_rate,
        trunk_lr=trunk_lr,
        warmup_steps=cell.schedule.warmup_steps,
        leaves=steps.leaves,
        decay_start=steps.decay_start,
        flops=shape.flops_per_token * n_tokens,
        flops_6nd=6.0 * shape.params.multiplying * n_tokens,
        memory_bytes=round(
            training_memory_bytes(
                shape,
                cell.machine.micro_batch or batch // shape.context // cell.machine.ranks,
                precision=cell.machine.precision,
                ranks=cell.machine.ranks if cell.machine.shard else 1,
                checkpointing=cell.machine.activation_checkpointing,
            )
        ),
        copied_bytes=copied_bytes(cell, shape),
    )


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Where a cell leaves its trunk, begins to decay and ends, in steps, and its tokens."""

    leaves: int
    decay_start: int
    ends: int
    n_tokens: int


def _steps(cell: CellConfig, shape: Shape, batch: int) -> Steps:
    """Return the steps of a cell whose trunk has a batch of so many tokens."""
    if cell.branch.is_set:
        return _branch_steps(cell, batch)
    budget_tokens = _tokens(cell, shape)
    ends = round(budget_tokens / batch)
    if ends < 1:
        raise ValueError(
            f"the budget gives {budget_tokens:.3g} tokens, less than half a batch of {batch}; "
            "raise the budget or lower optim.batch_tokens"
        )
    decay_start = ends - max(1, round(cell.schedule.decay * ends))
    return Steps(leaves=decay_start, decay_start=decay_start, ends=ends, n_tokens=ends * batch)


def _branch_steps(cell: CellConfig, batch: int) -> Steps:
    """Return the steps of a branch with another batch; ValueError for a budget beside its own."""
    branch, own_batch = cell.branch, batch * cell.branch.batch_factor
    if given := cell.budget.given():
        raise ValueError(
            f"budget sets {given}, and branch.tokens={branch.tokens:g} is the budget of a branch;"
            " leave one of them out"
        )
    leaves, own = round(branch.at_tokens / batch), round(branch.tokens / own_batch)
    if leaves < 1 or own < LEAST_BRANCH_STEPS:
        raise ValueError(
            f"branch.at_tokens={branch.at_tokens:g} and branch.tokens={branch.tokens:g} are"
            f" {leaves} steps of {batch} tokens and {own} of {own_batch}; a branch needs 1 and"
            f" {LEAST_BRANCH_STEPS} or more: raise them, or lower branch.batch_factor"
        )
    return Steps(
        leaves=leaves,
        decay_start=leaves + own - max(1, round(cell.schedule.decay * own)),
        ends=leaves + own,
        n_tokens=leaves * batch + own * own_batch,
    )


def copied_bytes(cell: CellConfig, shape: Shape) -> int:
    """Estimate the most bytes that training copies to the CPU's memory.

    While a branch trains that is not the last, the trunk is copied: each weight and two moments in
    fp32. With `log.health` the hidden matrices are copied over each step whose row is written.
    """
    trunk = 12 * shape.params.total if cell.schedule.name == "wsd" else 0
    return trunk + (4 * shape.n_layer * shape.layer_matrices if cell.log.health else 0)


def rows_per_rank(rows: int, ranks: int) -> int:
    """Return one rank's rows of a step; ValueError where the ranks cannot share them equally."""
    if rows % ranks:
        raise ValueError(
            f"the {rows} rows of a step cannot be shared by {ranks} ranks; set "
            "optim.batch_tokens to a multiple of ranks x data.context, or start fewer ranks"
        )
    return rows // ranks


def planned(cell: CellConfig) -> FinalConfig:
    """Return the settings of a cell's stages as a plan, with their learning rates worked out."""
    lr = resolve(cell).peak_lr
    sft, reward, ppo = cell.sft, cell.reward, cell.ppo
    if not sft.peak_lr:
        rate = tuning_lr(sft.lr_fraction, pretrain_lr=lr, method=sft.method)
        sft = replace(sft, peak_lr=rate)
    if not reward.peak_lr:
        reward = replace(reward, peak_lr=tuning_lr(reward.lr_fraction, pretrain_lr=lr))
    if not ppo.peak_lr:
        ppo = replace(ppo, peak_lr=tuning_lr(ppo.lr_fraction, pretrain_lr=lr))
    return FinalConfig(
        study=cell.study,
        runs=cell.runs,
        sft=sft,
        reward=reward,
        ppo=ppo,
        machine=cell.machine,
        log=cell.log,
        force=cell.force,
    )


def _tokens(cell: CellConfig, shape: Shape) -> float:
    """Return the tokens that the budget pays for, before they are rounded to steps."""
    name, value = cell.budget.chosen()
    if name == "flops":
        return value / shape.flops_per_token
    if name == "n_tokens":
        return value
    return value * getattr(shape.params, cell.budget.count)


# Two rough numbers for estimates of time, measured on one core of a shared EPYC: seconds that a
# step takes beside its matrix products, and FLOP/s of these products.
STEP_SECONDS = 0.005
CORE_FLOPS = 20e9


def workload(cell: CellConfig) -> tuple[float, int]:
    """Return the FLOPs and steps of a cell that trains alone.

    For a stage after pretraining they are upper limits, as if every row were full. A step costs two
    thirds where most weights get no gradient.
    """
    resolved, sft, reward = resolve(cell), cell.sft, cell.reward
    row = resolved.shape.flops_per_token * cell.data.context
    if cell.stage == "sft":
        steps = math.ceil(sft.examples / sft.batch_examples) * sft.epochs
        share = 1.0 if sft.method == "full" else 2 / 3
        return share * row * sft.examples * sft.epochs, steps
    if cell.stage == "reward":
        rows = 2 * reward.pairs / max(1, reward.samples_per_prompt - 1)
        return row * rows * reward.epochs, math.ceil(reward.pairs / reward.batch_pairs)
    if cell.stage == "ppo":  # sampling, three scorings, and the updates of policy and critic
        share = (6 + 6 * cell.ppo.inner_epochs) / 3
        steps = math.ceil(cell.ppo.episodes / cell.ppo.batch_episodes)
        return share * row * cell.ppo.episodes, steps
    return resolved.flops, resolved.n_steps


# Bytes of a token in a vocabulary of single bytes, and in GPT-2's on the Pile (Gao et al. 2020,
# 2101.00027); between them, and beyond, bytes grow with the logarithm of the size.
BYTES_BY_VOCABULARY = ((264, 1.0), (50_257, 1 / 0.29335))


def scoring_seconds(cell: CellConfig, n_bytes: int) -> float:
    """Estimate the seconds on one core in which a cell's model is scored on texts.

    cell: the cell
    n_bytes: UTF-8 bytes of the texts; a third of a training step is paid for each token
    """
    shape = resolve(cell).shape
    (small, least), (large, most) = BYTES_BY_VOCABULARY
    share = math.log(max(shape.vocab_size, small) / small) / math.log(large / small)
    tokens = n_bytes / (least + share * (most - least))
    return tokens * shape.flops_per_token / 3 / CORE_FLOPS


def task_seconds(cells: list[CellConfig]) -> float:
    """Estimate the seconds on one core of the cells of one trunk; the shared part counts once."""
    if cells[0].stage == "pretrain":
        return core_seconds(trunk_flops(cells), trunk_steps(cells))
    return sum(core_seconds(*workload(c)) for c in cells)


def trunk_steps(cells: list[CellConfig]) -> int:
    """Return the steps that these branches of one trunk take; the shared part counts once."""
    return round(training_length(branch_of(c) for c in cells))


def branch_of(cell: CellConfig) -> Branch:
    """Return the steps at which a cell leaves its trunk and ends; one trained alone leaves at 0."""
    r = resolve(cell)
    return (r.leaves if cell.schedule.name == "wsd" else 0, r.n_steps)


def trunk_flops(cells: list[CellConfig]) -> float:
    """Return the FLOPs that these branches of one trunk take; the shared part counts once."""
    first = resolve(cells[0])
    branches = []
    for cell in cells:
        resolved, (leaves, ends) = resolve(cell), branch_of(cell)
        tokens_at = resolved.tokens_at
        branches.append((float(tokens_at(round(leaves))), float(tokens_at(round(ends)))))
    return round(training_length(branches)) * first.shape.flops_per_token


def core_seconds(flops: float, steps: int) -> float:
    """Estimate the seconds on one core; for small models the number of steps decides."""
    return steps * STEP_SECONDS + flops / CORE_FLOPS


def by_trunk(cells: list[CellConfig]) -> dict[str, list[CellConfig]]:
    """Group cells by trunk; a repeated cell counts once."""
    trunks: dict[str, dict[str, CellConfig]] = {}
    for cell in cells:
        trunks.setdefault(cell.trunk_id(), {})[cell.run_id()] = cell
    return {name: list(members.values()) for name, members in trunks.items()}
