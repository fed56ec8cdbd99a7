"""Entropy sources: text of known entropy, with which a fitted offset E is compared.

A symbol is one character and one token. `markov`, `hmm` and `zipf` are unifilar: state and symbol
determine the next state, so the entropy rate is exactly H = -sum_s pi_s sum_x p(x|s) log p(x|s)
(Shannon 1948, section 7).

    markov     the state is the last `order` symbols
    hmm        one of `states` hidden states; a random map gives the next
    zipf       a name, one of symbols^`name_length`, the k-th with chance ~ k^-(1 + `exponent`),
               then the name's fixed answer or, with chance `noise`, any symbol: a table to
               memorise. Its loss falls as N^-z and D^(-z/(1+z)), z the exponent
    hierarchy  the random hierarchy model (Cagnetta et al. 2024, 2307.02129): sentences of
               branches^depth symbols. Each symbol of a level becomes one of `rules` tuples of
               symbols of the next level, all tuples different
"""

import string
from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from scipy.special import xlogy

from scaling.config import TruthConfig

ALPHABET = string.ascii_letters + string.digits
TOLERANCE = 1e-12  # The largest change, summed over states, of a stationary distribution in a step.


@dataclass(frozen=True, kw_only=True)
class Process:
    """S states: the probability of each symbol, (S, k), and the state that follows it, (S, k)."""

    emission: np.ndarray
    following: np.ndarray
    stationary: np.ndarray

    @classmethod
    def of(cls, source: str, config: TruthConfig) -> "Process":
        """Draw the process of a source from the config's seed."""
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
        """Nats per symbol, for a reader who has read all symbols before."""
        e = self.emission
        return float(-(self.stationary[:, None] * xlogy(e, e)).sum())

    def sample(self, n: int, *, seed: int) -> str:
        """Return n symbols; the first state is drawn from the stationary distribution."""
        rng = np.random.default_rng([seed, n])
        edges = [list(accumulate(row[:-1])) for row in self.emission]
        following = self.following.tolist()
        state = int(rng.choice(len(edges), p=self.stationary))
        letters = []
        for u in rng.random(n).tolist():
            symbol = bisect(edges[state], u)
            letters.append(ALPHABET[symbol])
            state = following[state][symbol]
        return "".join(letters)

    def bayes_loss(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """Return the mean loss of the best possible reader, nats per symbol.

        `inputs` and `targets` are (W, T) symbols. The reader knows the process and the inputs of
        the same window up to the target. A target of -1 is no symbol and is left out.
        """
        states = np.tile(self.stationary, (len(inputs), 1))  # (W, S)
        first = np.arange(len(inputs))[:, None] * states.shape[1]
        losses = []
        for x, y in zip(inputs.T, targets.T, strict=True):
            weight = states * self.emission[:, x].T
            to = first + self.following[:, x].T
            states = np.bincount(to.ravel(), weight.ravel(), states.size).reshape(states.shape)
            states /= states.sum(1, keepdims=True)
            is_symbol = y >= 0
            losses.append(-np.log((states * self.emission[:, y].T).sum(1))[is_symbol])
        return float(np.concatenate(losses).mean())


def _stationary(emission: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Return the distribution over states that a step does not change.

    Averaging with the step before makes it converge for periodic processes too.
    """
    states = len(emission)
    pi = np.full(states, 1 / states)
    for _ in range(100_000):
        step = np.bincount(following.ravel(), (pi[:, None] * emission).ravel(), states)
        if np.abs(step - pi).sum() < TOLERANCE:
            return step / step.sum()
        pi = (pi + step) / 2
    raise ValueError("the process has no stationary state; take another data.truth.seed")


def _memoriser(config: TruthConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return emission and following of `zipf`: states are the prefixes of names, and the names."""
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
        symbols = rng.integers(v, size=(-(-n // self.sentence), 1))
        for rules in self.levels:
            symbols = rules[symbols, rng.integers(m, size=symbols.shape)].reshape(len(symbols), -1)
        letters = np.array(list(ALPHABET))
        return "".join(letters[symbols.ravel()[:n]])

    def bayes_loss(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """Return the entropy rate: a reader of one window alone cannot reach it."""
        return self.entropy_rate


def process_of(source: str, config: TruthConfig) -> Process | Hierarchy:
    """Return the process of a source."""
    return Hierarchy.of(config) if source == "hierarchy" else Process.of(source, config)


def texts(source: str, config: TruthConfig) -> tuple[str, str]:
    """Return the training and the test text of a source."""
    process = process_of(source, config)
    return (
        process.sample(config.train_symbols, seed=config.seed),
        process.sample(config.test_symbols, seed=config.seed + 1),
    )
