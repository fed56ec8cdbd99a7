"""The one step that pyproject.toml cannot say: the YAML of the commands goes into the package.

A wheel carries conf/, with the sweeps/ and examples/ that it links to, as scaling/_conf, so that
nothing called `conf` lies at the top of site-packages. A checkout, and an editable install of one,
reads conf/ itself (scaling/app/conf_folder.py).
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
LINKED = ("sweeps", "examples")  # folders that conf/ links to; a link may be lost on the way here


def yaml_files() -> dict[str, Path]:
    """Return the files of scaling/_conf by their path in it."""
    conf = ROOT / "conf"
    files = {str(p.relative_to(conf)): p for p in conf.rglob("*.yaml")}
    for name in LINKED:
        files |= {f"{name}/{p.name}": p for p in (ROOT / name).glob("*.yaml")}
    return files


class BuildPy(build_py):
    """Copy the YAML beside the modules."""

    def run(self) -> None:
        """Build as usual, then add the files, unless the install is editable."""
        super().run()
        if not self.editable_mode:
            for name, target in self._targets().items():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(yaml_files()[name], target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """List the YAML too."""
        added = [] if self.editable_mode else [str(t) for t in self._targets().values()]
        return [*super().get_outputs(include_bytecode), *added]

    def _targets(self) -> dict[str, Path]:
        folder = Path(self.build_lib) / "scaling" / "_conf"
        return {name: folder / name for name in yaml_files()}


setup(cmdclass={"build_py": BuildPy})
