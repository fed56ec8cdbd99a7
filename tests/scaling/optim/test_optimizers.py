import math

import pytest
import torch

from scaling.config import ModelConfig, OptimConfig
from scaling.model.transformer import Transformer
from scaling.optim import optimizers
from scaling.optim.groups import by_kind
from scaling.optim.muon import Muon, orthogonal
from scaling.optim.optimizers import fused_kernel, make_optimizer
from scaling.optim.schedule import set_lr


def model(**changes) -> Transformer:
    torch.manual_seed(0)
    config = ModelConfig(**({"d_model": 32, "d_head": 16} | changes))
    return Transformer(config, vocab_size=300, context=24)


def step(made: Transformer, config: OptimConfig, lr: float = 0.01):
    tokens = torch.randint(0, 300, (4, 24), generator=torch.Generator().manual_seed(1))
    optimizer = make_optimizer(made, config, lr)
    made.loss(tokens, tokens).backward()
    optimizer.step()
    return optimizer


def test_orthogonal_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 16, 40), (2, 40, 16)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert 0.6 < values.min() < values.max() < 1.3


def test_a_step_is_that_of_torchs_muon_on_a_weight_that_is_not_fused():
    ours, theirs = (model() for _ in range(2))
    config = OptimConfig(name="muon", weight_decay=0.1)
    step(ours, config)
    name = "blocks.0.mlp.down.weight"
    weight = dict(theirs.named_parameters())[name]
    reference = torch.optim.Muon(
        [weight], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    tokens = torch.randint(0, 300, (4, 24), generator=torch.Generator().manual_seed(1))
    theirs.loss(tokens, tokens).backward()
    before = weight.detach().clone()
    reference.step()
    moved = dict(ours.named_parameters())[name].detach() - before
    wanted = weight.detach() - before
    assert float((moved - wanted).norm() / wanted.norm()) < 0.05  # torch's is in bfloat16


@pytest.mark.parametrize("experts", [0, 4])
def test_every_matrix_of_a_fused_weight_moves_by_the_rms_of_adamw(experts):
    made = model(n_experts=experts)
    before = {n: w.detach().clone() for n, w in made.named_parameters()}
    step(made, OptimConfig(name="muon", weight_decay=0.0))
    moved = {n: before[n] - w.detach() for n, w in made.named_parameters()}
    q, k, v = moved["blocks.1.attention.qkv.weight"].split(32)
    for part in (q, k, v, moved["blocks.0.attention.out.weight"]):
        assert part.square().mean().sqrt() == pytest.approx(0.2 * 0.01, rel=0.3)
    up = moved["blocks.0.mlp.up" if experts else "blocks.0.mlp.up.weight"]
    values = torch.linalg.svdvals(up.chunk(2, -2)[0])
    assert values.min() / values.max() > 0.4


def test_tables_and_vectors_are_left_to_adamw():
    ours, theirs = (model() for _ in range(2))
    step(ours, OptimConfig(name="muon"))
    step(theirs, OptimConfig())
    matrices, vectors, tables = by_kind(ours)
    other = dict(theirs.named_parameters())
    for name, weight in (vectors | tables).items():
        torch.testing.assert_close(weight, other[name], rtol=0, atol=0)
    assert not any(torch.equal(w, other[n]) for n, w in matrices.items())


def test_one_list_of_groups_and_one_state_hold_all_weights():
    made = model()
    optimizer = step(made, OptimConfig(name="muon"))
    assert isinstance(optimizer, Muon)
    held = {p for g in optimizer.param_groups for p in g["params"]}
    assert held == set(made.parameters()) == set(optimizer.state)
    assert optimizer.param_groups[0]["peak"] == 0.01


def test_parametrisations_are_one_model_and_one_optimiser_at_the_base_shape():
    base = {"n_layer": 2, "d_model": 32, "d_head": 32}
    wanted = None
    for kind in ("layerwise", "standard", "mup", "completep"):
        made = model(parametrization=kind, **base)
        optimizer = step(made, OptimConfig())
        found = [w.detach() for w in made.parameters()]
        wanted = wanted or found
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
        assert optimizer.param_groups[0]["peak"] == 0.01


@pytest.mark.parametrize(
    ("kind", "matrix_lr", "decay", "eps", "logits", "residual"),
    [
        ("layerwise", 0.25, 1, 1, 1, 1),
        ("standard", 1, 1, 1, 1, 1),
        ("mup", 0.25, 1, 1, 0.25, 1),
        ("completep", 0.25, 4, 1 / 12, 0.25, 1 / 3),
    ],
)
def test_rates_and_multipliers_at_four_times_the_width_and_three_times_the_depth(
    kind, matrix_lr, decay, eps, logits, residual
):
    made = model(parametrization=kind, d_model=128, n_layer=6)
    config = OptimConfig()
    matrices, vectors, tables = make_optimizer(
        made, config, config.recipe(made.config).peak_lr(128)
    ).param_groups
    assert matrices["peak"] == pytest.approx(config.lr_base * matrix_lr)
    assert matrices["weight_decay"] == pytest.approx(0.1 * decay)
    assert matrices["eps"] == pytest.approx(1e-8 * eps)
    assert (vectors["peak"], tables["peak"]) == (config.lr_base, config.lr_embedding)
    assert made.output_scale == pytest.approx(logits)
    assert made.blocks[0].branch == pytest.approx(residual)
    std = made.blocks[0].mlp.up.weight.std().item()
    assert std == pytest.approx(1 / math.sqrt(128), rel=0.02)


def test_muon_follows_the_root_of_the_width_under_mup():
    wide = ModelConfig(d_model=128, parametrization="mup")
    rule = OptimConfig(name="muon").recipe(wide)
    assert rule.peak_lr(128) == pytest.approx(0.006 / 2)


def test_an_unknown_optimiser_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="adamw, muon"):
        OptimConfig(name="lion")


def test_steps_are_those_of_torchs_adamw_to_the_last_bit():
    ours, theirs = (Transformer(ModelConfig(), vocab_size=300, context=8) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizers = [
        make_optimizer(ours, OptimConfig(), 0.01),
        torch.optim.AdamW(
            make_optimizer(theirs, OptimConfig(), 0.01).param_groups, betas=(0.9, 0.95), fused=True
        ),
    ]
    for seed in range(4):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            torch.manual_seed(seed)
            for weight in model.parameters():
                weight.grad = torch.randn_like(weight)
            set_lr(optimizer, 1 - seed / 4)
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    for state, other in zip(*(o.state.values() for o in optimizers), strict=True):
        assert all(torch.equal(state[name], other[name]) for name in other)


def test_gathered_moments_follow_what_a_checkpoint_puts_there():
    """Three steps in a row equal two, a copy of the state put back, and one."""
    tokens = torch.randint(0, 300, (4, 24), generator=torch.Generator().manual_seed(1))

    def steps(made, optimizer, n):
        for _ in range(n):
            optimizer.zero_grad()
            made.loss(tokens, tokens).backward()
            optimizer.step()

    whole, parted = model(), model()
    straight, broken = (make_optimizer(m, OptimConfig(), 0.01) for m in (whole, parted))
    steps(whole, straight, 3)
    steps(parted, broken, 2)
    held = {w: {k: v.clone() for k, v in s.items()} for w, s in broken.state.items()}
    weights = [w.detach().clone() for w in parted.parameters()]
    steps(parted, broken, 2)
    broken.state.update(held)
    with torch.no_grad():
        for weight, before in zip(parted.parameters(), weights, strict=True):
            weight.copy_(before)
    steps(parted, broken, 1)
    for ours, theirs in zip(parted.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert {float(s["step"]) for s in broken.state.values()} == {3.0}


def test_a_weight_without_a_gradient_keeps_its_count_and_its_place():
    made = model()
    optimizer = step(made, OptimConfig())
    idle, before = made.norm.weight, made.norm.weight.detach().clone()
    for _ in range(2):
        idle.grad = None
        optimizer.step()
    assert torch.equal(idle, before)
    counts = {float(s["step"]) for w, s in optimizer.state.items() if w is not idle}
    assert (float(optimizer.state[idle]["step"]), counts) == (1.0, {3.0})


def trained(steps: int = 3) -> tuple[Transformer, torch.optim.Optimizer]:
    made = model()
    optimizer = make_optimizer(made, OptimConfig(), 0.01)
    tokens = torch.arange(96).view(4, 24)
    for _ in range(steps):
        made.loss(tokens, tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
    return made, optimizer


def gone(monkeypatch):
    monkeypatch.delattr(torch, "_fused_adamw_")


def takes_less(monkeypatch):
    def kernel(weights, gradients):
        raise AssertionError("it cannot be called so")

    monkeypatch.setattr(torch, "_fused_adamw_", kernel)


def does_nothing(monkeypatch):
    monkeypatch.setattr(torch, "_fused_adamw_", lambda *lists, **rates: None)


@pytest.mark.parametrize("changed", [gone, takes_less, does_nothing])
def test_where_torch_has_another_kernel_its_own_step_gives_the_same_bits(monkeypatch, changed):
    ours, _ = trained()
    with monkeypatch.context() as patched:
        changed(patched)
        fused_kernel.cache_clear()
        assert fused_kernel() is None
    theirs, optimizer = trained()  # no kernel is known, torch's own step has its own again
    fused_kernel.cache_clear()
    assert not optimizer._states
    for weight, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(weight, other)


@pytest.mark.parametrize("known", [True, False], ids=["kernel", "torch's step"])
def test_a_step_count_on_the_cpu_is_put_beside_the_moments(monkeypatch, known):
    with torch.device("meta"):  # stands for a GPU
        made = model()
    optimizer, seen = make_optimizer(made, OptimConfig(), 0.01), []
    for weight in made.parameters():
        weight.grad = torch.zeros_like(weight)
        moments = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[weight] = {"step": torch.tensor(1.0), **moments}  # as a stack has it

    def kernel(weights, gradients, first, second, largest, counts, **rates):
        seen.extend(t.device.type for t in (*first, *counts))

    def step(self):
        seen.extend(t.device.type for s in self.state.values() for t in s.values())

    monkeypatch.setattr(optimizers, "fused_kernel", lambda: kernel if known else None)
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    optimizer.step()
    assert set(seen) == {"meta"}
