from dataclasses import replace

import pytest

from scaling.budget import resolve, trunk_flops
from scaling.config import BranchConfig, BudgetConfig, ScheduleConfig
from scaling.schema import training_length


def test_exactly_one_budget_is_asked_for(make_cell):
    cell = make_cell()
    cell.budget = BudgetConfig(flops=1e13, n_tokens=2e6)
    with pytest.raises(ValueError, match=r"flops=1e\+13 and n_tokens=2e\+06; set exactly one"):
        resolve(cell)


@pytest.mark.parametrize("budget", [{"flops": 5e8}, {"n_tokens": 4096}, {"tokens_per_param": 0.7}])
def test_every_way_to_say_a_budget_gives_whole_steps(make_cell, budget):
    cell = make_cell()
    cell.budget = BudgetConfig(**budget)
    r = resolve(cell)
    assert r.n_tokens == r.n_steps * r.batch_tokens
    assert r.flops == r.shape.flops_per_token * r.n_tokens
    assert r.flops_6nd == 6 * r.shape.params.with_head * r.n_tokens


def test_trunk_and_branches_cost_less_than_cells_alone(make_cell):
    cells = [make_cell(n_tokens=n) for n in (1024, 2048, 4096)]
    alone = sum(resolve(c).flops for c in cells)
    assert resolve(cells[-1]).flops < trunk_flops(cells) < 0.8 * alone
    for cell in cells:
        cell.schedule.name = "cosine"
    assert trunk_flops(cells) == alone


@pytest.mark.parametrize(
    ("branches", "reached", "steps"),
    [
        ([], 0, 0),
        ([(8, 10), (80, 100)], 0, 80 + 2 + 20),
        ([(80, 100)], 8, 72 + 20),
        ([(8, 10)], 80, 10),  # left before the trunk's only checkpoint: from step 0
        ([(8, 10), (160, 200)], 80, 160 + 2 + 40),
        ([(0, 10), (0, 20)], 0, 30),  # alone
    ],
)
def test_branches_cost_their_decay_and_the_trunk_beyond_its_checkpoint(branches, reached, steps):
    assert training_length(branches, reached=reached) == steps


def test_a_batch_that_no_window_fills_names_the_next_one(make_cell):
    with pytest.raises(ValueError, match="set 96"):
        resolve(make_cell(optim={"batch_tokens": 100}))


def test_the_two_ways_to_say_a_model_are_one_cell(make_cell):
    said = make_cell(model={"n_head": 2, "n_kv_head": 2, "d_ff": 48})
    assert said.run_id() == make_cell().run_id()
    assert make_cell(seed=1).run_id() != make_cell().run_id()
    assert make_cell(n_tokens=4096).trunk_id() == make_cell().trunk_id()


def test_a_branch_of_another_batch_counts_the_tokens_of_both_parts(make_cell):
    cell = replace(
        make_cell(),
        budget=BudgetConfig(),
        branch=BranchConfig(at_tokens=1000, tokens=1100, batch_factor=4),
    )
    r = resolve(cell)
    assert (r.leaves, r.n_steps, r.decay_start) == (16, 20, 19)  # of 64 tokens, then of 256
    assert r.n_tokens == r.tokens_at(r.n_steps) == 16 * 64 + 4 * 256
    assert r.tokens_at(17) == 16 * 64 + 256
    assert r.flops == r.shape.flops_per_token * r.n_tokens == trunk_flops([cell])


def test_a_branch_that_cannot_be_is_refused(make_cell):
    branch = BranchConfig(at_tokens=1024, tokens=1024)
    with pytest.raises(ValueError, match="leave one of them out"):
        resolve(replace(make_cell(), branch=branch))
    alone = replace(make_cell(), budget=BudgetConfig())
    with pytest.raises(ValueError, match=r"lower branch\.batch_factor"):
        resolve(replace(alone, branch=replace(branch, batch_factor=16)))
    with pytest.raises(ValueError, match=r"set branch\.tokens"):
        BranchConfig(at_tokens=1024)
    with pytest.raises(ValueError, match=r"set branch\.at_tokens"):
        BranchConfig(batch_factor=2)
    with pytest.raises(ValueError, match="take schedule=wsd"):
        replace(alone, branch=branch, schedule=ScheduleConfig(name="cosine"))


def test_a_branch_of_another_batch_leaves_other_ids_as_they_are(make_cell):
    cell, branch = make_cell(), BranchConfig(at_tokens=1024, tokens=1024)
    assert "branch" not in cell.science()
    other = replace(cell, branch=branch)
    assert other.run_id() != cell.run_id()
    assert other.trunk_id() == cell.trunk_id()
