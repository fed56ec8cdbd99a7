"""State on other devices and other ranks; `meta` stands for a GPU where none is."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from scaling.config import ModelConfig, OptimConfig
from scaling.model.transformer import Transformer
from scaling.optim.optimizers import make_optimizer
from scaling.train import checkpoint

META = torch.device("meta")
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def stepped(seed: int = 0, steps: int = 1, name: str = "adamw"):
    """Return a tiny model and its optimiser after some steps."""
    torch.manual_seed(seed)
    model = Transformer(ModelConfig(d_model=16, d_head=8), vocab_size=40, context=8)
    optimizer = make_optimizer(model, OptimConfig(name=name), 0.01)
    for _ in range(steps):
        tokens = torch.randint(0, 40, (2, 8))
        model.loss(tokens, tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def state_of(model, optimizer) -> dict[str, torch.Tensor]:
    return checkpoint.snapshot(model, optimizer)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_all_that_an_optimiser_reads_is_put_on_the_weights_device(tmp_path):
    checkpoint.save(tmp_path, model=(made := stepped())[0], optimizer=made[1], state={})
    with META:
        model, optimizer = stepped(steps=0)
    checkpoint.load(tmp_path, model=model, optimizer=optimizer)
    for state in optimizer.state.values():
        assert {name: v.device for name, v in state.items()} == dict.fromkeys(MOMENTS, META)
    assert len(optimizer.state) == len(list(model.parameters()))


def test_a_resumed_optimiser_steps_as_the_one_that_was_saved(tmp_path):
    made = stepped(steps=3)
    checkpoint.save(tmp_path, model=made[0], optimizer=made[1], state={})
    for again in (stepped(seed=1, steps=0), stepped(seed=1, steps=2)):  # without moments, and with
        checkpoint.load(tmp_path, model=again[0], optimizer=again[1])
        assert equal(state_of(*again), state_of(*made))
        for model, optimizer in (made, again):
            tokens = torch.arange(16).view(2, 8)
            model.loss(tokens, tokens).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert equal(state_of(*again), state_of(*made))
        checkpoint.save(tmp_path, model=made[0], optimizer=made[1], state={})


def test_a_snapshot_lies_in_the_cpus_memory_and_is_put_back_in_place():
    model, optimizer = stepped(steps=2, name="muon")
    held = checkpoint.snapshot(model, optimizer)
    assert {t.device.type for t in held.values()} == {"cpu"}
    places = [t.data_ptr() for s in optimizer.state.values() for t in s.values()]
    tokens = torch.arange(16).view(2, 8)
    model.loss(tokens, tokens).backward()
    optimizer.step()
    assert not equal(state_of(model, optimizer), held)
    checkpoint.restore(model, optimizer, held)
    assert equal(state_of(model, optimizer), held)
    assert [t.data_ptr() for s in optimizer.state.values() for t in s.values()] == places
    before = checkpoint.snapshot(*stepped(steps=0))  # of a trunk that a branch leaves at step 0
    again = stepped(steps=1)
    checkpoint.restore(*again, before)
    assert equal(state_of(*again), before)


RANK = """
import json, sys
sys.path.insert(0, "tests/scaling/train")
from torch import distributed
from test_checkpoint import stepped, state_of
from scaling.train import checkpoint
from scaling.train.ranks import World

folder, rank = sys.argv[1], int(sys.argv[2])
meeting = f"file://{folder}/meeting"
distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
whole = distributed.broadcast_object_list
def plain(values, **options):
    json.dumps(values)  # a tensor is no JSON
    whole(values, **options)
distributed.broadcast_object_list = plain
world = World(rank=rank, size=2)
for steps in ((3, 0), (0, 2), (2, 1)):
    model, optimizer = stepped(seed=rank, steps=steps[rank])
    if rank:
        assert optimizer.state or not steps[1]
    checkpoint.spread(model, optimizer, world)
    checkpoint.save(f"{folder}/{steps[0]}-{rank}", model=model, optimizer=optimizer, state={})
distributed.destroy_process_group()
"""


@pytest.mark.long
@pytest.mark.slow
def test_ranks_take_over_the_first_ones_state_tensor_by_tensor(tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path), str(rank)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in ranks:
        output = process.communicate(timeout=240)[1]
        assert process.returncode == 0, output
    for steps in (3, 0, 2):
        first, second = (
            load_file(tmp_path / f"{steps}-{rank}" / "checkpoint.safetensors") for rank in range(2)
        )
        assert equal(first, second)
    again = stepped(seed=5, steps=0)
    checkpoint.load(tmp_path / "3-1", model=again[0], optimizer=again[1])
    assert equal(state_of(*again), state_of(*stepped(seed=0, steps=3)))
