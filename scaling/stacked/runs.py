"""Several runs of one shape as one: their steps, scores and probes on stacked weights.

Each run keeps its own model and optimiser, whose tensors become rows of the stack's tensors, so
that checkpoints, snapshots and curves are made as for a run alone. Each run has its own learning
rate, weight decay, clipping and skipped steps. The losses are those of the run alone, within
rounding.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scaling.model.transformer import Transformer
from scaling.stacked.passes import StackedPasses, StackedWeights
from scaling.study.activity import moved
from scaling.train.device import to_device
from scaling.train.health import finite, update_ratio
from scaling.train.heldout import Score, score_of
from scaling.train.requests import HealthRequest, ScoreRequest, StepRequest
from scaling.train.step import Diverged, Run, accept

# Stacks of forward passes whose buffers are kept: those of the sizes used last (all runs, a part of
# them, the health probe).
KEPT = 3


class StackedRuns:
    """Stacked weights, gradients and moments of runs; each run gets views of its own row."""

    def __init__(self, requests: Sequence[StepRequest]) -> None:
        self.runs = [r.run for r in requests]
        setting, size = requests[0].setting, len(requests)
        model = self.runs[0].model
        self.weights, self.gradient, self.first, self.second = (
            StackedWeights(model, size, setting.device) for _ in range(4)
        )
        self.counts = torch.zeros(len(self.weights.named), size)  # updates so far; torch has floats
        self.firsts = [next(run.model.parameters()) for run in self.runs]
        self.states: list[dict[str, Any] | None] = [None] * size
        optim = setting.cell.optim
        self.betas = optim.beta1, optim.beta2
        self.passes = StackedPasses(
            model.config,
            self.weights,
            self.gradient,
            rows=setting.resolved.rows,
            context=setting.cell.data.context,
        )
        self.weights.fill([run.model for run in self.runs])
        for row, run in enumerate(self.runs):
            for name, weight in run.model.named_parameters():
                weight.data = self.weights.named[name][row]

    def holds(self, requests: Sequence[StepRequest]) -> bool:
        """Say whether the requests are of this stack's runs, in its order."""
        return len(requests) == len(self.runs) and all(
            r.run is run for r, run in zip(requests, self.runs, strict=True)
        )

    def step(self, requests: Sequence[StepRequest]) -> list[tuple[float, float] | Diverged]:
        """Take one step of every run; return for each its loss and gradient norm, or Diverged."""
        for row, run in enumerate(self.runs):
            self._own(row, run)
        device = self.weights.kinds[0].device
        drawn: dict[
            tuple[int, int], tuple[np.ndarray, np.ndarray]
        ] = {}  # one batch per seed and step
        for r in requests:
            if (key := (r.setting.cell.seed, r.run.step)) not in drawn:
                drawn[key] = r.setting.batches(r.run.step)
        batches = [drawn[r.setting.cell.seed, r.run.step] for r in requests]
        x, y = (to_device(np.stack(part), device) for part in zip(*batches, strict=True))
        losses = self.passes(x, y)
        norms = self.gradient.norms()
        losses_and_norms = list(zip(losses.tolist(), norms.tolist(), strict=True))
        self._clip([n for _, n in losses_and_norms], [r.clip for r in requests])
        answers: list[tuple[float, float] | Diverged] = []
        accepted = []
        for row, (request, (loss, norm)) in enumerate(zip(requests, losses_and_norms, strict=True)):
            try:
                if accept(request.run, request.setting.cell.optim, loss, norm):
                    accepted.append(row)
                answers.append((loss, norm))
            except Diverged as error:
                answers.append(error)
        for rows in stretches(accepted):
            self._update(rows)
        return answers

    def _own(self, row: int, run: Run) -> None:
        """Copy a run's moments into its row, where a checkpoint or a snapshot made new tensors."""
        state, optimizer = self.states[row], run.optimizer
        first = self.firsts[row]
        if state is not None and optimizer.state.get(first) is state:
            return
        for number, (name, weight) in enumerate(run.model.named_parameters()):
            moments = self.first.named[name][row], self.second.named[name][row]
            count, moments_before = self.counts[number, row], optimizer.state.get(weight)
            if moments_before:
                moments[0].copy_(moments_before["exp_avg"])
                moments[1].copy_(moments_before["exp_avg_sq"])
                count.copy_(moments_before["step"])
            else:
                for tensor in (*moments, count):
                    tensor.zero_()
            optimizer.state[weight] = dict(
                zip(("step", "exp_avg", "exp_avg_sq"), (count, *moments), strict=True)
            )
        self.states[row] = optimizer.state[first]

    def _clip(self, norms: list[float], most: list[float]) -> None:
        """Scale each run's gradient down to its largest norm (0: never)."""
        factors = [m / n if 0 < m < n else 1.0 for n, m in zip(norms, most, strict=True)]
        if any(f != 1 for f in factors):
            column = self._column(factors)
            for flat in self.gradient.kinds:
                flat.mul_(column)

    def _column(self, values: Sequence[float]) -> Tensor:
        like = self.weights.kinds[0]
        return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]

    def _update(self, rows: slice) -> None:
        """Take AdamW's step (Loshchilov & Hutter 2019) of some rows."""
        self.counts[:, rows] += 1
        counts = self.counts[0, rows].tolist()
        beta1, beta2 = self.betas
        roots = self._column([math.sqrt(1 - beta2**c) for c in counts])
        bundles = (self.weights, self.gradient, self.first, self.second)
        for kind in range(len(self.weights.kinds)):
            w, g, m, v = (b.kinds[kind][rows] for b in bundles)
            groups = [run.optimizer.param_groups[kind] for run in self.runs[rows]]
            m.lerp_(g, 1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            root = torch.sqrt(v).div_(roots).add_(self._column([o["eps"] for o in groups]))
            if any(o["weight_decay"] for o in groups):
                w.mul_(self._column([1 - o["lr"] * o["weight_decay"] for o in groups]))
            sizes = [-o["lr"] / (1 - beta1**c) for o, c in zip(groups, counts, strict=True)]
            w.addcdiv_(m * self._column(sizes), root)


class StackedForward:
    """Computes scores and probes of any of the runs, on copies of their weights."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, int], StackedPasses] = {}

    def scores(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """Score runs on as many windows of their test sets."""
        setting = requests[0].setting
        tests = [r.setting.test for r in requests]
        n = len(tests[0].inputs)
        n = n if requests[0].windows is None else min(n, requests[0].windows)
        rows = min(setting.resolved.rows, n)
        passes = self._of([r.run.model for r in requests], rows=rows)
        means = []
        for at in range(0, n, rows):
            here = np.minimum(
                np.arange(at, at + rows), n - 1
            )  # the last window is repeated, and cut off below
            x, y = (
                to_device(np.stack([part[here] for part in parts]), setting.device)
                for parts in ([t.inputs for t in tests], [t.targets for t in tests])
            )
            means.append(passes.losses(x, y).double().mean(2).cpu())  # (S, rows)
            moved()
        per_window = torch.cat(means, dim=1)[:, :n].numpy()
        return [score_of(each, test) for each, test in zip(per_window, tests, strict=True)]

    def healths(self, requests: Sequence[HealthRequest]) -> list[dict[str, float]]:
        """Measure the health of runs."""
        tokens = torch.stack([r.tokens for r in requests])
        passes = self._of([r.run.model for r in requests], rows=tokens.shape[1])
        probes = {name: values.tolist() for name, values in passes.probe(tokens).items()}
        return [
            finite(
                {
                    "update_ratio": update_ratio(r.before, r.run.model),
                    **{name: values[row] for name, values in probes.items()},
                }
            )
            for row, r in enumerate(requests)
        ]

    def _of(self, models: list[Transformer], *, rows: int) -> StackedPasses:
        key = (len(models), rows)
        passes = self.kept.pop(key, None)
        if passes is None:
            weights = StackedWeights(models[0], len(models), models[0].device)
            passes = StackedPasses(models[0].config, weights, rows=rows, context=models[0].context)
        self.kept[key] = passes
        while len(self.kept) > KEPT:
            self.kept.pop(next(iter(self.kept)))
        passes.weights.fill(models)
        return passes


def stretches(rows: list[int]) -> list[slice]:
    """Return rows in ascending order as ranges of neighbours."""
    ranges: list[slice] = []
    for row in rows:
        if ranges and ranges[-1].stop == row:
            ranges[-1] = slice(ranges[-1].start, row + 1)
        else:
            ranges.append(slice(row, row + 1))
    return ranges
