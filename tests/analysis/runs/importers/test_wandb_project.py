"""Projects of wandb: through stand-ins of its public API, and through the real one on a server."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pandas as pd
import pytest

from analysis.runs.importers.sources import read_curves, read_logs, read_runs
from analysis.runs.table import load_runs
from tests.analysis.runs.importers.make_logs import BATCH, SIZES, STEPS, loss_of

ROOT = Path(__file__).parents[4]


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


def test_a_history_that_fails_costs_its_run_alone(api):
    def fails():
        raise RuntimeError("no history found")

    api.runs[0].scan_history = fails
    curves = read_curves("wandb:someone/sizes")
    assert set(curves["schedule"]) == {"large (idlarge)"}


class Server(BaseHTTPRequestHandler):
    """What a server of wandb answers to its API: the viewer, a project of two runs, histories."""

    asked: ClassVar[list[str]] = []

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])) or "{}")
        query = request.get("query", "")
        self.asked.append(query)
        body = json.dumps({"data": self.answer(query, request.get("variables") or {})}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

    def answer(self, query, variables):
        if "viewer" in query:
            teams: dict = {"edges": []}
            names = dict.fromkeys(("id", "entity", "username", "email"), "someone")
            return {"viewer": {**names, "flags": "{}", "teams": teams}}
        if "RunHistoryKeys" in query:
            return {"project": {"run": {"historyKeys": {"keys": {}, "lastStep": STEPS}}}}
        if "RunParquetHistory" in query:
            return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}
        if "HistoryPage" in query:
            n, peak = SIZES[variables["run"].removeprefix("id")]
            rows = map(json.dumps, fake_run("x", n, peak).scan_history())
            return {"project": {"run": {"history": list(rows)}}}
        edges = [
            {"node": self.node(fake_run(k, n, peak)), "cursor": k} for k, (n, peak) in SIZES.items()
        ]
        page = {"endCursor": "large", "hasNextPage": False}
        runs = {"edges": edges, "pageInfo": page}
        return {"project": {"internalId": "1", "runCount": 2, "runs": runs}}

    def node(self, run):
        config = {k: {"value": v} for k, v in run.config.items()}
        times = dict.fromkeys(("createdAt", "heartbeatAt"), "2026-01-01T00:00:00")
        return {
            "id": run.id, "name": run.id, "displayName": run.name, "state": run.state,
            "config": json.dumps(config), "summaryMetrics": json.dumps(run.summary_metrics),
            "systemMetrics": "{}", "tags": [], "historyKeys": {"keys": {}, "lastStep": STEPS},
            "user": {"name": "someone", "username": "someone"}, "projectId": "1", **times,
        }  # fmt: skip


@pytest.fixture
def server():
    """A server on this machine that answers as wandb's does; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.long
@pytest.mark.parametrize("curves", [False, True])
def test_the_real_client_reads_a_server(server, tmp_path, curves):
    environment = {**os.environ, "WANDB_BASE_URL": server, "WANDB_API_KEY": "a" * 40}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-m", "analysis.table", "runs=wandb:someone/sizes", f"curves={curves}",
         "out=out.csv"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "out.csv")
    if curves:
        assert "8 points of 2 runs" in done.stdout
        assert list(table["loss"]) == [
            pytest.approx(loss_of(n, step * BATCH))
            for n, _ in SIZES.values()
            for step in (25, 50, 75, 100)
        ]
    else:
        assert list(table["params"]) == [1.2e7, 3e7]
        assert list(table["tokens"]) == [STEPS * BATCH] * 2
