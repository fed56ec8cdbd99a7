"""How devices share the training: the simplest layout that fits."""

from dataclasses import replace

import pytest

from analysis.planning.layout import USABLE, layout_of, memory_gib
from analysis.runs.study import default_study
from scaling.schema import DEVICES, Shape

GIB = 2.0**30


def shape(n_layer: int, width: int) -> Shape:
    """Return a shape of heads of 128 with the other settings of the default study."""
    heads = width // 128
    return replace(
        default_study().like,
        **{"n_layer": n_layer, "d_model": width, "d_head": 128, "n_head": heads},
        **{"n_kv_head": heads, "d_ff": 8 * width // 3},
    )


ONE, SEVEN, SEVENTEEN = shape(19, 2048), shape(36, 3840), shape(52, 5120)


def laid(shape, device, devices, **settings):
    return layout_of(shape, rows=8, device=device, devices=devices, precision="bf16", **settings)


def test_small_models_stay_whole_large_ones_are_sharded_then_recomputed():
    assert [round(s.params.total / 1e9) for s in (ONE, SEVEN, SEVENTEEN)] == [1, 7, 17]
    assert not laid(ONE, "h200", 8).sharded
    seven = laid(SEVEN, "h200", 256)
    assert (seven.sharded, seven.checkpointing, seven.fits) == (True, False, True)
    tight = laid(replace(SEVENTEEN, context=4096), "h100", 512)
    assert (tight.sharded, tight.checkpointing, tight.fits) == (True, True, True)


def test_seventeen_billion_on_512_devices_is_no_340_gib_a_device():
    layout = laid(SEVENTEEN, "h100", 512)
    assert layout.sharded
    assert layout.memory_gib < USABLE * DEVICES["h100"].memory / GIB
    assert "divided among 512 (FSDP2)" in layout.why


def test_what_the_user_set_is_kept_though_it_does_not_fit():
    layout = laid(SEVENTEEN, "h100", 512, sharded=False, checkpointing=False)
    assert (layout.sharded, layout.checkpointing, layout.fits) == (False, False, False)
    assert laid(SEVEN, "h200", 256, checkpointing=True).checkpointing


def test_an_unknown_device_changes_nothing():
    layout = layout_of(SEVEN, rows=8, device="", devices=256, precision="fp32")
    assert (layout.sharded, layout.checkpointing, layout.rows) == (False, False, 8)


def test_rows_at_once_divide_the_share_and_fit():
    layout = laid(SEVEN, "h200", 256)
    assert 8 % layout.rows == 0
    more = memory_gib(SEVEN, 2 * layout.rows, (True, False), devices=256, precision="bf16")
    assert layout.rows == 8 or more > USABLE * DEVICES["h200"].memory / GIB


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_falls_with_sharding_and_with_recomputation(precision):
    def needed(shard, again):
        return memory_gib(SEVEN, 4, (shard, again), devices=64, precision=precision)

    assert needed(True, True) < needed(True, False) < needed(False, False)
