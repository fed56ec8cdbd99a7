"""Samples of the policy on held-out prompts: their errors, and what samples.json shows."""

import math
from types import SimpleNamespace

import pytest

from scaling.inference.generate import Samples
from scaling.stages.policy_samples import (
    SHOWN,
    PolicySamples,
    before_and_after,
    error_over_prompts,
)


def test_the_completions_of_a_prompt_count_as_one_value():
    means = [1.0, 4.0, 1.0]
    values = [v for m in means for v in (m - 1, m + 1)]
    deviation = math.sqrt(sum((m - 2) ** 2 for m in means) / 2)
    assert error_over_prompts(values) == pytest.approx(deviation / math.sqrt(3))


def side(n_prompts: int, score: float, gold: list[float]) -> PolicySamples:
    """Return two completions of each prompt, whose tokens are its number and the score."""
    prompts = [[i] for i in range(n_prompts) for _ in range(2)]
    completions = [[int(score), i % 2] for i in range(2 * n_prompts)]
    return PolicySamples(
        prompts=prompts,
        samples=Samples(completions=completions),
        scores=[score] * len(prompts),
        gold=gold,
        summary={},
    )


def test_the_first_completion_of_each_prompt_is_shown_before_and_after():
    stage = SimpleNamespace(corpus=SimpleNamespace(tokenizer=SimpleNamespace(decode=str)))
    before, after = side(SHOWN + 3, 1.0, []), side(SHOWN + 3, 2.0, [0.5] * 2 * (SHOWN + 3))
    rows = before_and_after(stage, before, after)  # type: ignore[arg-type]
    assert [r["prompt"] for r in rows] == [f"[{i}]" for i in range(SHOWN)]
    assert {(r["before"], r["after"]) for r in rows} == {("[1, 0]", "[2, 0]")}
    assert rows[0] == {
        "prompt": "[0]",
        "before": "[1, 0]",
        "reward_before": 1.0,
        "gold_before": None,
        "after": "[2, 0]",
        "reward_after": 2.0,
        "gold_after": 0.5,
    }
