"""Tests that share a worker of pytest-xdist: those that want the machine alone, or one fixture.

`--dist loadgroup` does not do it: xdist 3.8 writes the group into `item._nodeid`, which pytest 9.2
does not read. So a worker writes the groups of its tests into a file, and the scheduler reads it.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ALONE = "alone"


class GroupScheduling(LoadScopeScheduling):
    """Send all tests of a group to one worker, and every other test to the one that is free."""

    def __init__(self, config: pytest.Config, log: Any, file: Path) -> None:
        super().__init__(config, log)
        self.file = file
        self.groups: dict[str, str] = {}
        config.option.loadscopereorder = False  # the order of the collection: longest groups first

    def schedule(self) -> None:
        if self.file.is_file():  # it is not where the collection failed
            self.groups = json.loads(self.file.read_text())
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return self.groups.get(nodeid, nodeid)


class WorkerGroups:
    """The hooks of pytest and xdist that group the tests."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="scaling-tests-")
        self.file = Path(self.folder.name) / "groups.json"

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> GroupScheduling:
        return GroupScheduling(config, log, self.file)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["groups"] = str(self.file)

    @pytest.hookimpl(trylast=True)  # after -m has left out what it does
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Sort the groups to the front; the first worker writes which test is in which."""
        groups = {item.nodeid: group for item in items if (group := group_of(item))}
        if not (given := getattr(config, "workerinput", None)):
            return
        rank = {ALONE: 0, "": 2}
        items.sort(key=lambda item: rank.get(groups.get(item.nodeid, ""), 1))
        if given["workerid"] == "gw0":
            Path(given["groups"]).write_text(json.dumps(groups))


def group_of(item: pytest.Item) -> str:
    """Return the group of a test: ALONE, its module if it shares a fixture there, or none."""
    if item.get_closest_marker("alone") or item.get_closest_marker("slurm"):
        return ALONE
    fixtures = item._fixtureinfo.name2fixturedefs.values()  # type: ignore[attr-defined]
    shares = any(f.scope in ("module", "class") for found in fixtures for f in found)
    return item.nodeid.split("::")[0] if shares else ""
