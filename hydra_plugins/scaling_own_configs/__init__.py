"""Hydra's way to the user's own `sweeps/` and `conf/` (scaling.app.own_configs), without a flag.

Other Hydra applications of the same environment load this plugin too, and are left as they are.
"""

import os

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin

from scaling.app.conf_folder import conf_folder
from scaling.app.own_configs import own_file, own_folders, own_roots

SCHEME = "own"


class OwnConfigSource(ConfigSource):
    """The two folders as one source of configs."""

    @staticmethod
    def scheme() -> str:
        """Return what an entry of the search path begins with."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """Read one file."""
        file = own_file(config_path)
        if file is None:
            raise ConfigLoadError(f"Config not found : {config_path}")
        return FileConfigSource(self.provider, str(file.parent)).load_config(file.name)

    def available(self) -> bool:
        """Say whether there is such a folder."""
        return bool(own_roots())

    def is_group(self, config_path: str) -> bool:
        """Say whether a folder of that name is there."""
        return not config_path or bool(own_folders(config_path))

    def is_config(self, config_path: str) -> bool:
        """Say whether a file of that name is there."""
        return own_file(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """List the files and folders of a group."""
        names = {n for folder in own_folders(config_path) for n in os.listdir(folder)}
        names |= {group for group in own_roots() if group and not config_path}
        files: list[str] = []
        for name in names:
            path = f"{config_path}/{name}" if config_path else name
            self._list_add_result(files, path, name, results_filter)
        return sorted(set(files))


class OwnConfigs(SearchPathPlugin):
    """Puts the user's folders before ours, for the commands of this project alone."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the source where the application's configs are ours and the user has any."""
        main = [e.path for e in search_path.get_path() if e.provider == "main" and e.path]
        if [p.removeprefix("file://") for p in main] == [str(conf_folder())] and own_roots():
            search_path.prepend("own", f"{SCHEME}://.", anchor="main")
