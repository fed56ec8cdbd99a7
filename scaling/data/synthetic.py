"""Text whose entropy is known, to check a fitted offset E against (Shannon 1948, section 7).

`markov`, `hmm` and `zipf` are unifilar: state and symbol fix the next state, so the entropy rate is
exactly H = -sum_s pi_s sum_x p(x|s) log p(x|s). `markov` has the last `order` symbols as its state,
`hmm` hides `states` behind a random map. `zipf` names one of symbols^`name_length` things, the k-th
of them with chance ~ k^-(1 + `exponent`), and gives its fixed answer, or with chance `noise` any:
a table to be learned by heart (its loss falls as N^-z and D^(-z/(1+z)), z the exponent).
`hierarchy` is the random hierarchy model (Cagnetta et al. 2024, 2307.02129): sentences of
branches^depth symbols, each symbol of a level one of `rules` tuples of the next, all tuples
different. A symbol is one character and one token.
"""

import string
from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from scipy.special import xlogy

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
        elif source == "zipf":
            emission, following = _memoriser(config, rng)
            return cls(
                emission=emission,
                following=following,
                stationary=_stationary(emission, following),
            )
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
        return float(-(self.stationary[:, None] * xlogy(e, e)).sum())

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


def _memoriser(config: TruthConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return emission and following of `zipf`: states are the parts of a name, and the names."""
    k, length = config.symbols, config.name_length
    chance = np.arange(1, k**length + 1) ** -(1.0 + config.exponent)
    chance = rng.permutation(chance / chance.sum())
    emissions, followings, first = [], [], 0
    for j in range(length):
        mass = chance.reshape(k**j, k, -1).sum(2)  # (prefixes, k)
        first += k**j  # the number of the next level's first state
        emissions.append(mass / mass.sum(1, keepdims=True))
        followings.append(first + np.arange(k ** (j + 1)).reshape(k**j, k))
    answers = np.full((k**length, k), config.noise / k)
    answers[np.arange(k**length), rng.integers(k, size=k**length)] += 1 - config.noise
    emissions.append(answers)
    followings.append(np.zeros((k**length, k), dtype=np.int64))
    return np.concatenate(emissions), np.concatenate(followings)


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """The random hierarchy model: for each level the tuples (v, m, s) of every symbol."""

    levels: list[np.ndarray]

    @classmethod
    def of(cls, config: TruthConfig) -> "Hierarchy":
        """Draw the rules of a config from its seed."""
        rng, v = np.random.default_rng(config.seed), config.symbols
        m, s = config.rules, config.branches
        places = v ** np.arange(s)
        levels = []
        for _ in range(config.depth):
            tuples = rng.choice(v**s, size=v * m, replace=False)
            levels.append((tuples[:, None] // places % v).reshape(v, m, s))
        return cls(levels=levels)

    @property
    def sentence(self) -> int:
        """Symbols of a sentence."""
        return self.levels[0].shape[2] ** len(self.levels)

    @property
    def entropy_rate(self) -> float:
        """Nats per symbol: a root, and a choice of rule at every inner symbol."""
        v, m, s = self.levels[0].shape
        inner = (self.sentence - 1) // (s - 1)
        return float((np.log(v) + inner * np.log(m)) / self.sentence)

    def sample(self, n: int, *, seed: int) -> str:
        """Return n symbols of sentence after sentence."""
        rng = np.random.default_rng([seed, n])
        v, m, _ = self.levels[0].shape
        found = rng.integers(v, size=(-(-n // self.sentence), 1))
        for rules in self.levels:
            found = rules[found, rng.integers(m, size=found.shape)].reshape(len(found), -1)
        letters = np.array(list(ALPHABET))
        return "".join(letters[found.ravel()[:n]])

    def bayes_loss(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """Return the entropy rate, which is below what a reader of one window can reach."""
        return self.entropy_rate


def process_of(source: str, config: TruthConfig) -> Process | Hierarchy:
    """Return the process of a source."""
    return Hierarchy.of(config) if source == "hierarchy" else Process.of(source, config)


def texts(source: str, config: TruthConfig) -> tuple[str, str]:
    """Return the training and the test text."""
    process = process_of(source, config)
    return (
        process.sample(config.train_symbols, seed=config.seed),
        process.sample(config.test_symbols, seed=config.seed + 1),
    )
