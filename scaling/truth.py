"""Text whose entropy is known, to check a fitted offset E against (Shannon 1948, section 7).

Both sources are unifilar: state and symbol fix the next state, so the entropy rate is exactly
H = -sum_s pi_s sum_x p(x|s) log p(x|s). `markov` has the last `order` symbols as its state, `hmm`
hides `states` behind a random map. A symbol is one character and one token.
"""

import string
from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from scaling.config import TruthConfig

ALPHABET = string.ascii_letters + string.digits
TOLERANCE = 1e-12  # of the stationary distribution


@dataclass(frozen=True, kw_only=True)
class Process:
    """S states: probabilities (S, k) of each symbol, and the state (S, k) that follows it."""

    emission: np.ndarray
    following: np.ndarray
    stationary: np.ndarray

    @classmethod
    def of(cls, source: str, config: TruthConfig) -> "Process":
        """Draw the process of a config from its seed."""
        rng, k = np.random.default_rng(config.seed), config.symbols
        if source == "markov":
            states = k**config.order
            following = (np.arange(states)[:, None] * k + np.arange(k)) % states
        else:
            states = config.states
            following = rng.integers(states, size=(states, k))
        emission = rng.dirichlet(np.full(k, config.concentration), size=states)
        emission = 0.999 * emission + 0.001 / k  # every symbol is possible: one ergodic class
        return cls(
            emission=emission,
            following=following,
            stationary=_stationary(emission, following),
        )

    @property
    def entropy_rate(self) -> float:
        """Nats per symbol, for a reader who has seen everything before."""
        e = self.emission
        return float(-(self.stationary[:, None] * e * np.log(e)).sum())

    def sample(self, n: int, *, seed: int) -> str:
        """Return n symbols from the stationary state on."""
        rng = np.random.default_rng([seed, n])
        edges = [list(accumulate(row[:-1])) for row in self.emission]
        following = self.following.tolist()
        state = int(rng.choice(len(edges), p=self.stationary))
        found = []
        for u in rng.random(n).tolist():
            symbol = bisect(edges[state], u)
            found.append(ALPHABET[symbol])
            state = following[state][symbol]
        return "".join(found)

    def bayes_loss(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """Return the mean loss of the best possible reader, nats per symbol.

        `inputs` and `targets` are (W, T) symbols; the reader knows the process and, in each window,
        the inputs up to the target, no more. A target of -1 is no symbol and is left out.
        """
        belief = np.tile(self.stationary, (len(inputs), 1))  # (W, S)
        first = np.arange(len(inputs))[:, None] * belief.shape[1]
        losses = []
        for x, y in zip(inputs.T, targets.T, strict=True):
            weight = belief * self.emission[:, x].T
            to = first + self.following[:, x].T
            belief = np.bincount(to.ravel(), weight.ravel(), belief.size).reshape(belief.shape)
            belief /= belief.sum(1, keepdims=True)
            known = y >= 0
            losses.append(-np.log((belief * self.emission[:, y].T).sum(1))[known])
        return float(np.concatenate(losses).mean())


def _stationary(emission: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Return the distribution over states that a step leaves as it is; averaged, if periodic."""
    states = len(emission)
    pi = np.full(states, 1 / states)
    for _ in range(100_000):
        step = np.bincount(following.ravel(), (pi[:, None] * emission).ravel(), states)
        if np.abs(step - pi).sum() < TOLERANCE:
            return step / step.sum()
        pi = (pi + step) / 2
    raise ValueError("the process has no stationary state; take another data.truth.seed")


def texts(source: str, config: TruthConfig) -> tuple[str, str]:
    """Return the training and the test text."""
    process = Process.of(source, config)
    return (
        process.sample(config.train_symbols, seed=config.seed),
        process.sample(config.test_symbols, seed=config.seed + 1),
    )
