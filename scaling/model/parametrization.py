"""How initial weights, forward pass and optimiser change with width and depth.

    layerwise  matrices learn at a rate proportional to 1/width, all else is as in standard: the
               standard parametrisation with a rate per kind of layer (Everett et al. 2024,
               2407.05872). Hidden matrices follow muP's rule, output and attention scales do not
    standard   one rate for every width
    mup        Yang et al. 2022 (2203.03466), table 8
    completep  Dey et al. 2025 (2505.01618), table 1 with alpha = 1: muP in width, and in depth

With m = width / base width and r = layers / base layers, against the base model:

                                     mup                completep
    hidden matrices, initial std     m^-1/2             m^-1/2
    hidden matrices, learning rate   m^-1               m^-1
    hidden matrices, weight decay    1                  m
    AdamW's eps of the blocks        1                  m^-1 r^-1
    ... of embedding and head        1                  m^-1
    residual outputs, initial factor (2 layers)^-1/2    (2 base layers)^-1/2
    residual branches, forward       1                  r^-1
    logits                           m^-1               m^-1
    attention scores                 1 / d_head         1 / d_head

At the base shape all four give the same model. The (2 layers)^-1/2 of initial residual
outputs is GPT-2's (Radford et al. 2019); CompleteP's own depth rule takes its place.
"""

import math
from dataclasses import dataclass

from scaling.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Multipliers of a model against its base shape.

    `attention` is the factor of q.k, None for 1/sqrt(d_head). `residual_init` multiplies the
    initial weights of residual outputs, `residual` the output of the branch.
    """

    attention: float | None = None
    residual: float = 1.0
    residual_init: float
    output: float = 1.0
    router_init: float = 1.0
    decay: float = 1.0
    eps_blocks: float = 1.0
    eps_tables: float = 1.0


def scales(model: ModelConfig) -> Scales:
    """Return the multipliers of a model's parametrisation."""
    by_depth = 1 / math.sqrt(2 * model.n_layer)
    if model.parametrization in ("layerwise", "standard"):
        return Scales(residual_init=by_depth)
    m, r = model.d_model / model.base_width, model.n_layer / model.base_depth
    shared = {
        "attention": math.sqrt(model.base_head) / model.d_head,
        "output": 1 / m,
        # A router maps a width to a fixed number of outputs, as muP's output layer does. It has the
        # matrices' rate of 1/m, so its initial variance is 1/m^2 (Yang et al. 2022, table 3).
        "router_init": m**-0.5,
    }
    if model.parametrization == "mup":
        return Scales(residual_init=by_depth, **shared)
    return Scales(
        residual=1 / r,
        residual_init=1 / math.sqrt(2 * model.base_depth),
        decay=m,
        eps_blocks=1 / (m * r),
        eps_tables=1 / m,
        **shared,
    )
