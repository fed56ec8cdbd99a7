from dataclasses import replace

import pytest

from analysis.planning.shapes.candidates import candidates, ffn_steps, width_step, with_params
from analysis.runs.study import Cell, Study, default_study
from scaling.schema import Shape

BASE = Shape(
    n_layer=2, d_model=32, n_head=1, n_kv_head=1, d_head=32, d_ff=88, vocab_size=512, context=128
)


def rung(n_layer: int, d_model: int, d_head: int) -> Shape:
    n_head = d_model // d_head
    return replace(BASE, n_layer=n_layer, d_model=d_model, d_head=d_head, n_head=n_head,
                   n_kv_head=n_head, d_ff=8 * round(2.75 * d_model / 8))  # fmt: skip


RUNGS = (rung(2, 24, 24), rung(2, 32, 32), rung(2, 40, 40), rung(3, 48, 24), rung(3, 64, 32))


def study_with(shapes=RUNGS, **changes) -> Study:
    cells = [
        Cell(
            params=s.params.total,
            tokens=1e6,
            flops=1e12,
            flops_per_second=0,
            peak_lr=0.01,
            shape=s,
        )
        for s in shapes
    ]
    values = {"name": "s", "source": "study s", "like": shapes[2 % len(shapes)], "recipe": None}
    return Study(**values, cells=tuple(cells), **changes)


def made(study, low=1e4, high=1e6, device="Intel Xeon"):
    return candidates(study, count="total", low=low, high=high, device=device)


def test_trained_shapes_are_candidates_as_they_are():
    assert {c.shape for c in made(study_with()) if c.trained} == set(RUNGS)


def test_heads_are_the_nearest_trained_ones_that_divide_the_width():
    heads = {c.shape.d_model: c.shape.d_head for c in made(study_with()) if not c.trained}
    assert heads[80] == 40  # the study's own
    assert heads[72] == 24
    assert heads[96] == 32  # nearer to 40 than 24
    assert 56 not in heads  # no trained head divides it
    assert all(width % head == 0 for width, head in heads.items())


def test_depths_stay_next_to_the_line():
    study = study_with()
    for c in made(study):
        assert 0.6 < study.ladder.depth(c.shape.d_model) / c.shape.n_layer < 1.6
        assert c.shape.n_layer >= 2


def test_widths_on_an_accelerator_are_multiples_of_64_and_128_at_size():
    every = candidates(default_study(), count="total", low=1e9, high=2e11, device="h100")
    assert {c.shape.d_model % (128 if c.shape.d_model >= 2048 else 64) for c in every} == {0}
    assert {c.shape.d_head for c in every} == {128, 64}
    assert width_step(4096, "AMD EPYC 9654 96-Core Processor") == 8
    assert width_step(4096, "NVIDIA H200") == width_step(4096, "") == 128


def test_d_ff_moves_to_meet_a_size():
    study = study_with()
    base = next(c for c in made(study) if c.shape == RUNGS[3])
    target = base.params * 1.05
    moved = with_params(base, study, target, count="total", device="cpu")
    assert moved.params == pytest.approx(target, rel=0.016)  # half a step
    assert moved.shape.d_ff % 8 == 0
    assert (moved.shape.n_layer, moved.shape.d_model) == (3, 48)
    assert not moved.trained
    far = with_params(base, study, 5 * base.params, count="total", device="cpu")
    assert far.shape.d_ff / 48 <= 1.5 * 2.8


def test_d_ff_goes_no_further_than_half_as_much_again():
    assert ffn_steps(RUNGS[2], RUNGS[2], 8) == (-4, 7)  # 112 from 75 to 168


def test_a_mixture_keeps_the_share_of_its_experts():
    like = replace(RUNGS[4], n_experts=8, top_k=2, d_expert=88)
    study = study_with([like])
    for c in made(replace(study, like=like), high=1e8):
        assert (c.shape.n_experts, c.shape.top_k) == (8, 2)
        assert c.shape.d_expert / c.shape.d_ff == pytest.approx(0.5, rel=0.02)
        assert with_params(c, study, c.params * 1.05, count="total", device="") is None


@pytest.mark.parametrize("size", [1e30, float("inf"), float("nan"), 0.0, -1.0])
def test_sizes_beyond_all_models_are_refused(size):
    with pytest.raises(ValueError, match="are shaped"):
        made(study_with(), low=size, high=size)


def test_narrow_heads_end_too():
    study = replace(study_with(), like=replace(BASE, d_head=1))
    assert made(study, low=9e14, high=1e15)
