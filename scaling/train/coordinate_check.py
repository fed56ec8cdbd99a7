"""How activations and weights change with width under a parametrization (the coordinate check)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from scaling.config import PARAMETRIZATIONS, ModelConfig, OptimConfig, check
from scaling.model.transformer import Transformer
from scaling.optim.optimizers import make_optimizer
from scaling.optim.schedule import set_lr
from scaling.schema import OneOf, Range, checked
from scaling.train.health import probe

KINDS = ("rms_attention", "rms_mlp", "rms_stream", "rms_logits")
VOCABULARY, CONTEXT, ROWS = 256, 32, 8  # Of the fixed batch: bytes, and small enough for seconds.


@dataclass(kw_only=True)
@checked()
class CoordinatesConfig:
    """The parametrisations, and the sizes that they are traced over.

    Every size trains on one fixed batch, drawn from Zipf's distribution.
    """

    parametrizations: list[Annotated[str, OneOf(*PARAMETRIZATIONS)]] = field(
        default_factory=lambda: ["layerwise", "standard", "mup", "completep"]
    )
    """Parametrisations to trace (model.parametrization)."""
    axis: Annotated[str, OneOf("width", "depth")] = "width"
    """What grows; the other stays at the base model's."""
    widths: list[Annotated[int, Range(1, 131_072)]] = field(
        default_factory=lambda: [32, 64, 128, 256]
    )
    """Widths to train for axis=width: two or more, multiples of 32, the width of a head."""
    depths: list[Annotated[int, Range(1, 1000)]] = field(default_factory=lambda: [2, 4, 8, 16])
    """Numbers of layers to train for axis=depth: two or more."""
    steps: Annotated[int, Range(1, 1e9)] = 10
    """Steps to train each size."""
    seeds: Annotated[int, Range(1, 1e6)] = 2
    """Number of seeds whose traces are averaged."""
    lr_base: Annotated[float, Range(0, 1e30, above=True)] = 0.006
    """Peak learning rate of the base model."""
    optimizer: Annotated[str, OneOf("adamw", "muon")] = "adamw"
    """Optimiser."""
    tied: bool = True
    """Use the embedding's table as the output head too."""
    out: str = "coordinates.svg"
    """Figure to write."""

    def __post_init__(self) -> None:
        """Check that there is a line to fit."""
        sizes = f"{self.axis}s"
        check(sizes, self.sizes, len(set(self.sizes)) >= 2, "must hold two sizes or more")

    @property
    def sizes(self) -> list[int]:
        """The sizes along the axis."""
        return self.widths if self.axis == "width" else self.depths


def measure(config: CoordinatesConfig, parametrization: str) -> np.ndarray:
    """Return the mean RMS over seeds, (kinds, sizes, steps + 1); step 0 is the initial model."""
    activations = [
        [trace(config, parametrization, size, seed) for size in config.sizes]
        for seed in range(config.seeds)
    ]  # (seeds, sizes, steps + 1, kinds)
    return np.exp(np.log(np.array(activations)).mean(0)).transpose(2, 0, 1)


def trace(config: CoordinatesConfig, parametrization: str, size: int, seed: int) -> np.ndarray:
    """Train one model on the fixed batch; return its activations, (steps + 1, kinds).

    config: the axis, the learning rate and the number of steps
    parametrization: of the model
    size: along the axis
    seed: of the initial weights
    """
    shape = ModelConfig(
        parametrization=parametrization,
        d_model=size if config.axis == "width" else 32,
        n_layer=size if config.axis == "depth" else 2,
        d_head=32,
        tied=config.tied,
    )
    optim = OptimConfig(name=config.optimizer, lr_base=config.lr_base)
    torch.manual_seed(seed)
    model = Transformer(shape, vocab_size=VOCABULARY, context=CONTEXT)
    optimizer = make_optimizer(model, optim, optim.recipe(shape).peak_lr(shape.d_model))
    set_lr(optimizer, 1.0)
    tokens = zipf_batch()
    rows = []
    for _ in range(config.steps + 1):
        values = probe(model, tokens[:, :-1])
        rows.append([values[kind] for kind in KINDS])
        (model.loss(tokens[:, :-1], tokens[:, 1:]) + model.router_loss()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return np.array(rows)


def zipf_batch() -> torch.Tensor:
    """Return the fixed (rows, context + 1) batch."""
    weights = 1 / torch.arange(1, VOCABULARY + 1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.multinomial(weights, ROWS * (CONTEXT + 1), replacement=True, generator=generator)
    return tokens.view(ROWS, CONTEXT + 1)


def slopes(sizes: list[int], values: np.ndarray) -> np.ndarray:
    """Return the slope of log values against log size; (..., sizes, steps) to (..., steps)."""
    x = np.log(np.array(sizes, dtype=float))
    x = x - x.mean()
    return np.einsum("s,...st->...t", x, np.log(values)) / (x**2).sum()


def draw(config: CoordinatesConfig, measured: dict[str, np.ndarray], out: Path) -> None:
    """Draw RMS against size: columns are kinds of layers, rows parametrisations, lines steps.

    config: whose sizes and steps are drawn
    measured: for each parametrisation what `measure` returned
    out: the figure's file
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullLocator

    shape = (len(measured), len(KINDS))
    figure, axes = plt.subplots(
        *shape, figsize=(3 * shape[1], 2.4 * shape[0]), sharex=True, sharey="col", squeeze=False
    )
    steps_shown = sorted({0, 1, 2, config.steps // 2, config.steps} & set(range(config.steps + 1)))
    for row, (name, values) in zip(axes, measured.items(), strict=True):
        for axis, kind, lines in zip(row, KINDS, values, strict=True):
            for step in steps_shown:
                colour = plt.get_cmap("viridis")(step / config.steps)
                axis.loglog(config.sizes, lines[:, step], "o-", ms=3, color=colour, label=f"{step}")
            axis.set_title(f"{name}: {kind.removeprefix('rms_')}", fontsize=9)
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xticks(config.sizes, [str(size) for size in config.sizes])
    for axis in axes[-1]:
        axis.set_xlabel(config.axis)
    for row in axes:
        row[0].set_ylabel("root mean square")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0, 0.93, 1))
    figure.legend(handles, labels, title="step", loc="center right", fontsize=8, title_fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    plt.close(figure)
