"""Sources of known entropy against what can be counted by hand."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from scaling.config import CellConfig, DataConfig, TokenizerConfig, TruthConfig
from scaling.data.synthetic import ALPHABET, Hierarchy, Process
from scaling.data.tokens import open_corpus
from scaling.train.heldout import make_test_set
from scaling.train.trunk import train_trunk

BYTES = TokenizerConfig(vocab_size=264)
SMALL = TruthConfig(symbols=4, order=2, states=6, train_symbols=20_000, test_symbols=5_000)


@pytest.mark.slow
@pytest.mark.many(3)
@pytest.mark.parametrize("source", ["markov", "hmm", "zipf"])
def test_the_entropy_rate_is_that_of_long_blocks(source):
    process = Process.of(source, SMALL)
    text = process.sample(200_000, seed=3)
    symbols = np.array([ALPHABET.index(letter) for letter in text])[None]
    reached = process.bayes_loss(symbols[:, :-1], symbols[:, 1:])
    assert reached == pytest.approx(process.entropy_rate, abs=0.01)
    assert process.sample(50, seed=3) == process.sample(50, seed=3)


@pytest.mark.parametrize("source", ["markov", "hmm"])
def test_the_best_readers_loss_is_the_exact_conditional_entropy_of_a_window(source):
    """Averaged over all windows with their probabilities it is H(X_2..X_T+1 | X_1) / T."""
    process, length = Process.of(source, SMALL), 4

    def chance(word: tuple[int, ...]) -> float:
        total = 0.0
        for state, start in enumerate(process.stationary):
            here = start
            for symbol in word:
                here *= process.emission[state, symbol]
                state = process.following[state, symbol]
            total += here
        return total

    def entropy(n: int) -> float:
        chances = [chance(word) for word in itertools.product(range(4), repeat=n)]
        assert sum(chances) == pytest.approx(1)
        return -sum(p * np.log(p) for p in chances)

    words = list(itertools.product(range(4), repeat=length + 1))
    windows = np.array(words)
    losses = [process.bayes_loss(w[None, :-1], w[None, 1:]) for w in windows]
    mean = sum(chance(word) * loss for word, loss in zip(words, losses, strict=True))
    assert mean == pytest.approx((entropy(length + 1) - entropy(1)) / length)


def test_names_by_zipfs_law_have_the_entropy_of_names_and_answers():
    config = TruthConfig(symbols=6, name_length=2, exponent=0.5, noise=0.3)
    process = Process.of("zipf", config)
    assert len(process.stationary) == 1 + 6 + 36
    chance = np.arange(1, 37) ** -1.5
    chance /= chance.sum()
    right, wrong = 0.7 + 0.3 / 6, 0.3 / 6
    answer = -right * np.log(right) - 5 * wrong * np.log(wrong)
    assert process.entropy_rate == pytest.approx((-(chance * np.log(chance)).sum() + answer) / 3)
    text = Process.of("zipf", replace(config, noise=0.0)).sample(3000, seed=0)
    first = next(i for i in range(3) if len({text[j : j + 3] for j in range(i, 2900, 3)}) <= 36)
    triples = [text[j : j + 3] for j in range(first, 2900, 3)]
    assert len({t[:2] for t in triples}) == len(set(triples))  # the name says the answer


@pytest.mark.parametrize(
    ("shape", "rate"), [((16, 4, 2, 3), 1.5596), ((32, 8, 2, 4), 2.1661), ((8, 2, 2, 6), 0.7148)]
)
def test_the_hierarchys_entropy_is_the_known_one(shape, rate):
    v, m, s, depth = shape
    config = TruthConfig(symbols=v, rules=m, branches=s, depth=depth)
    process = Hierarchy.of(config)
    assert process.entropy_rate == pytest.approx(rate, abs=5e-5)
    assert process.sentence == s**depth
    text = process.sample(40 * process.sentence, seed=1)
    symbols = np.array([ALPHABET.index(c) for c in text]).reshape(40, -1)
    for rules in reversed(process.levels):  # every sentence has one derivation, up to its root
        parents = {tuple(t): a for a, row in enumerate(rules) for t in row}
        assert len(parents) == v * m
        symbols = np.array([[parents[tuple(t)] for t in row.reshape(-1, s)] for row in symbols])
    assert symbols.shape == (40, 1)
    assert process.sample(100, seed=1)[:50] != process.sample(100, seed=2)[:50]


def test_settings_of_other_sources_are_no_part_of_a_cell(make_cell):
    cell = make_cell()
    known = cell.run_id()
    cell.data.truth.depth = 3
    assert cell.run_id() == known
    made = replace(cell, data=replace(cell.data, source="hierarchy"), tokenizer=BYTES)
    other = replace(made, data=replace(made.data, truth=replace(made.data.truth, depth=4)))
    assert made.run_id() != other.run_id()


def test_impossible_sources_are_refused():
    with pytest.raises(ValueError, match=r"data.truth.rules=9 are more than"):
        TruthConfig(symbols=8, rules=9)
    with pytest.raises(ValueError, match=r"at most 4096 states"):
        TruthConfig(symbols=20, name_length=3)


def test_a_symbol_is_a_token_and_the_record_keeps_the_least_loss(make_cell, tmp_path):
    tiny = make_cell()
    tiny.data = DataConfig(source="markov", truth=SMALL, context=16)
    tiny.tokenizer.vocab_size = 264
    corpus = open_corpus(tiny)
    assert (len(corpus.train), len(corpus.test)) == (20_001, 5_001)
    test = make_test_set(corpus, context=16, n_tokens=4096)
    (record,) = train_trunk([tiny], folders=[tmp_path / "cell"])
    kept = json.loads((tmp_path / "cell/record.json").read_text())
    assert kept["metrics"]["bayes_loss"] < record.test_loss
    assert test.bayes_loss == pytest.approx(kept["metrics"]["bayes_loss"], rel=0.1)
    assert CellConfig.from_dict(kept["config"]).run_id() == tiny.run_id()


def test_merged_symbols_and_too_many_states_are_refused():
    with pytest.raises(ValueError, match=r"set tokenizer\.vocab_size=264"):
        CellConfig(data=DataConfig(source="hmm"))
    with pytest.raises(ValueError, match="at most 4096 states; lower it"):
        TruthConfig(symbols=20, order=3)


def test_a_vocabulary_of_somebody_else_is_refused_by_the_setting_that_is_wrong():
    tokenizer = TokenizerConfig(source="gpt2", vocab_size=264)
    with pytest.raises(ValueError, match=r"tokenizer\.source=.*leave it out and set .*=264"):
        CellConfig(data=DataConfig(source="markov"), tokenizer=tokenizer)
