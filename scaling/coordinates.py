"""Check a parametrisation's coordinates: do activations keep their size as width or depth grows?

    scaling coordinates [parametrizations=[standard,mup]] [axis=depth] [out=name.svg]

The command trains each size for a few steps on one fixed batch. It prints the slope of log RMS
against log size, by kind of layer, at initialisation and after the last step (Yang et al. 2022,
appendix D.1). Under muP the slopes over width are near 0 after some steps (logits begin at -1/2:
they start at zero in the limit). Under a standard parametrisation at least one slope is above 0.
The figure shows the same.
"""

import logging
import math
import sys
from pathlib import Path

from scaling.app.application import start, store
from scaling.train.coordinate_check import KINDS, CoordinatesConfig, draw, measure, slopes

log = logging.getLogger(__name__)


def main(config: CoordinatesConfig) -> None:
    """Measure, print the table of slopes, write the figure."""
    out = sys.stdout.write
    out(f"slope of log RMS against log {config.axis} over {config.sizes}, initially and after ")
    out(f"{config.steps} steps (0: activations keep their size)\n")
    names = [kind.removeprefix("rms_") for kind in KINDS]
    out(f"{'':12}" + "".join(f"{name:>18}" for name in names) + "\n")
    measured = {}
    for name in config.parametrizations:
        measured[name] = measure(config, name)
        slopes_by_kind = slopes(config.sizes, measured[name])  # (kinds, steps + 1)
        cells = [f"{line[0]:+.2f} -> {line[-1]:+.2f}" for line in slopes_by_kind]
        out(f"{name:12}" + "".join(f"{cell:>18}" for cell in cells) + "\n")
        if not all(math.isfinite(v) for v in slopes_by_kind[:, -1]):
            log.warning("%s: activations stopped being finite; lower lr_base", name)
    draw(config, measured, Path(config.out))
    out(f"figure: {config.out}\n")


store("coordinates", CoordinatesConfig)

if __name__ == "__main__":
    start(main, config_name="coordinates", schema=CoordinatesConfig)
