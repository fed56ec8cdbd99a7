"""How well laws of mixtures rank and predict mixtures that they have not seen.

    python benchmarks/mixture.py ../shared/mixtures [OTHER_TEST.csv ...]

Each form is fitted to the 512 models of 1M parameters of RegMix (regmix_1m_train.csv) and predicts
the mixtures of each test table. Prints Spearman's rank correlation of the mean loss over all
domains, of each domain (mean) and of Pile-CC, the median relative error of a loss by domain (its
level belongs to 1M, so it means something there alone), and the processor seconds of the fit.
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.mixing.laws import LAWS
from analysis.mixing.options import MixtureConfig
from analysis.mixing.solve import fit_domains
from analysis.mixing.table import load_swarm
from analysis.mixing.validation import rank, withhold

TESTS = ("regmix_1m_test.csv", "regmix_60m_test.csv")


def main() -> None:
    """Print a row for each form and test table."""
    folder, *others = map(Path, sys.argv[1:])
    train = load_swarm(MixtureConfig(runs=str(folder / "regmix_1m_train.csv")))
    at = train.domains.index("pile_cc")
    print("| form | table | mean loss | each domain | Pile-CC | median error of a loss | fit, s |")
    print("|---|---|---|---|---|---|---|")
    for law in LAWS.values():
        began = time.process_time()
        theta = fit_domains(law, train.shares, train.losses).theta
        seconds = time.process_time() - began
        folds = withhold(law, theta, train, seed=0)
        tables = [("withheld folds of the 512", folds.predicted, folds.seen)]
        for path in (*(folder / name for name in TESTS), *others):
            test = load_swarm(MixtureConfig(runs=str(path)))
            tables.append((path.stem, law.losses(theta, test.shares), test.losses))
        for name, predicted, seen in tables:
            each = [rank(p, s) for p, s in zip(predicted.T, seen.T, strict=True)]
            errors = np.median(np.abs(predicted / seen - 1), axis=0)
            print(
                f"| {law.name} | {name} | {rank(predicted.mean(axis=1), seen.mean(axis=1)):.3f} |"
                f" {np.mean(each):.3f} | {each[at]:.3f} | {errors.min():.2%} to {errors.max():.2%}"
                f" | {seconds:.1f} |"
            )


if __name__ == "__main__":
    main()
