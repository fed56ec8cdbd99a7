"""Projects of wandb: through stand-ins of its public API, and through the real one on a server."""

from types import SimpleNamespace

import pytest

from analysis.runs.importers.sources import read_curves, read_logs, read_runs
from analysis.runs.table import load_runs
from tests.analysis.runs.importers.make_logs import BATCH, SIZES, STEPS, loss_of


def fake_run(name, n, peak, state="finished", **summary):
    """Return what wandb's API gives of a run, with a history of four steps."""
    steps = range(25, STEPS + 1, 25)
    history = [
        {"_step": s, "_runtime": s, "val/loss": loss_of(n, s * BATCH), "lr": peak * (1 - s / 125)}
        for s in steps
    ]
    last = {"val/loss": loss_of(n, STEPS * BATCH), "train/loss": 3.0, "_step": STEPS, "_runtime": 9}
    return SimpleNamespace(
        id=f"id{name}",
        name=name,
        state=state,
        config={"model": {"params": int(n)}, "lr": peak, "tokens_per_step": BATCH, "_wandb": {}},
        summary_metrics={**last, **summary},
        scan_history=lambda: iter(history),
    )


@pytest.fixture
def api(monkeypatch):
    """A stand-in of wandb's API; `runs` is what it gives, or the error that it raises."""
    import wandb

    given = SimpleNamespace(runs=[fake_run(k, n, peak) for k, (n, peak) in SIZES.items()], asked=[])

    class Api:
        def __init__(self, timeout):
            given.asked.append(timeout)

        def runs(self, path, per_page, lazy):
            given.asked.append((path, lazy))
            if isinstance(given.runs, Exception):
                raise given.runs
            return iter(given.runs)

    monkeypatch.setattr(wandb, "Api", Api)
    return given


def test_a_project_becomes_a_table(api):
    api.runs.append(fake_run("dead", 5e7, 1e-3, state="crashed"))
    runs = load_runs("wandb:someone/sizes")
    assert api.asked[-1] == ("someone/sizes", False)
    assert list(runs.table["params"]) == [1.2e7, 3e7]
    assert set(runs.table["tokens"]) == {STEPS * BATCH}
    assert list(runs.table["lr"]) == [1e-3, 7e-4]
    assert list(runs.table["loss"]) == [loss_of(n, STEPS * BATCH) for n, _ in SIZES.values()]
    assert runs.inputs["source"] == "wandb:someone/sizes"
    assert runs.dropped == [
        {"run": "dead (iddead)", "why": "its state is crashed (logs.unfinished=true takes it)"}
    ]


def test_curves_come_from_the_histories(api):
    curves = read_curves("wandb:someone/sizes")
    assert list(curves[curves["schedule"] == "small (idsmall)"]["step"]) == [25, 50, 75, 100]
    assert len(curves) == 8


def test_one_hostile_run_is_named_and_left_out(api):
    deep: dict = {}
    for _ in range(50):
        deep = {"a": deep or 1}
    api.runs[0].config = deep
    api.runs[1].name = "esc\x1b[2J"
    table, _ = read_runs("wandb:someone/sizes")
    assert "nested more than" in table.left_out[0]["why"]
    assert list(table.rows["run"]) == ["esc?[2J (idlarge)"]


def test_what_wandb_raises_is_one_sentence(api):
    import wandb

    for error in (wandb.errors.CommError("no\nnetwork"), ValueError("Could not find project")):
        api.runs = error
        with pytest.raises(ValueError, match=r"did not give the runs of a/b \(.*wandb login"):
            read_logs("wandb:a/b")


@pytest.mark.parametrize("source", ["wandb:", "wandb:one", "wandb:a/b/c", "wandb: a/b"])
def test_a_source_that_names_no_project_is_refused(source):
    with pytest.raises(ValueError, match="runs=wandb:ENTITY/PROJECT"):
        read_logs(source)
