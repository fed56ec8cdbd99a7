from dataclasses import replace

import numpy as np
import pytest

from analysis.runs.ladder import chinchilla_ladder, token_flops_of, trained_ladder
from scaling.schema import Shape

LIKE = Shape(
    n_layer=4, d_model=64, n_head=4, n_kv_head=4, d_head=16, d_ff=176, vocab_size=512, context=128
)


def rung(n_layer: int, d_model: int) -> Shape:
    return replace(LIKE, n_layer=n_layer, d_model=d_model, n_head=d_model // 16,
                   n_kv_head=d_model // 16, d_ff=8 * round(2.75 * d_model / 8))  # fmt: skip


RUNGS = [rung(n, 16 * n) for n in (2, 3, 4, 5, 6)]


def test_the_line_of_a_constant_aspect_is_that_aspect():
    ladder = trained_ladder(RUNGS, LIKE)
    assert [ladder.depth(w) for w in (16, 48, 640)] == pytest.approx([1, 3, 40], rel=0.02)


def test_the_flops_of_rungs_on_the_line_are_exact():
    sizes = [s.params.total for s in RUNGS]
    cost = trained_ladder(RUNGS, LIKE).token_flops("total", sizes=sizes)
    for shape in RUNGS:
        assert cost(shape.params.total) == pytest.approx(shape.flops_per_token, rel=0.004)


def test_beyond_the_widest_rung_width_over_layers_is_held():
    ladder = trained_ladder([rung(2, w) for w in (16, 32, 64)] + [rung(3, 128)], LIKE)
    assert ladder.depth(32) == pytest.approx(2, rel=0.15)
    aspects = [w / ladder.depth(w) for w in (128, 1e3, 1e4, 1e5)]
    assert aspects[1:] == pytest.approx([aspects[2]] * 3, rel=1e-3)
    assert aspects[0] == pytest.approx(aspects[2], rel=0.2)


def test_one_rung_keeps_its_aspect():
    assert trained_ladder([rung(4, 64)], LIKE).depth(128) == pytest.approx(8)


def test_chinchillas_line_has_the_shapes_of_its_paper():
    ladder = chinchilla_ladder(LIKE)
    for params, aspect in ((1.143e9, 69), (1e5, 16), (1e12, 109)):
        width = (params * aspect / 12) ** (1 / 3)
        assert width / ladder.depth(width) == pytest.approx(aspect, rel=0.01)


def test_the_width_at_a_size_has_that_size():
    ladder = trained_ladder(RUNGS, LIKE)
    for params in np.geomspace(1e4, 1e10, 7):
        shape = ladder.at(ladder.width(params, "non_embedding"))
        assert shape.params.non_embedding == pytest.approx(params, rel=0.01)


def test_records_without_a_shape_have_no_flops_by_size():
    assert token_flops_of([], "total") is None
