"""Find the mixture of training sources that gives the least loss, from small runs of many mixtures.

    scaling mixture runs=mixtures.csv target='{pile_cc: 1}'
    scaling mixture runs=mixtures.csv tokens=1e11 unique='{github: 2e10}' caps='{github: 0.2}'
    scaling mixture runs=runs/mixture natural='{code: 0.2, books: 0.8}'
    scaling mixture runs=mixtures.csv predict=others.csv

Each domain gets a law of its loss in the shares. The proposal minimises the weighted loss within
what was trained, and repeats of scarce sources are priced.
"""

import sys
from pathlib import Path

from analysis.mixing.options import MixtureConfig
from analysis.mixing.result import mixture
from analysis.mixing.text import lines_of
from scaling.app.application import start, store
from scaling.app.choices import wrote
from scaling.schema import write_json, write_text


def main(config: MixtureConfig) -> None:
    """Fit the laws, write mixture.json and the predictions, print proposal and alarms."""
    result, predicted = mixture(config)
    study = Path(config.runs).is_dir()
    out = Path(config.out or (Path(config.runs) / "mixture.json" if study else "mixture.json"))
    paths = [write_json(out, result)]
    if predicted is not None:
        beside = out.with_name(f"{out.stem}_predicted.csv")
        paths.append(write_text(beside, predicted.to_csv(index=False)))
    ends = wrote(paths, here=not config.out and not study)
    sys.stdout.write("\n".join(lines_of(result)) + f"\n{ends}\n")


store("mixture", MixtureConfig)

if __name__ == "__main__":
    start(main, config_name="mixture", schema=MixtureConfig)
