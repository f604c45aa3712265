"""Installed packages for tests: a module and its metadata, where `sys.path` finds them."""

from __future__ import annotations

import textwrap
from pathlib import Path


class Site:
    """A directory like site-packages. Use the fixture `site`, which puts it on `sys.path`."""

    def __init__(self, path: Path):
        self.path = path

    def module(self, name: str, source: str) -> None:
        """Write a module that is importable, but not installed."""
        (self.path / f"{name}.py").write_text(textwrap.dedent(source))

    def install(self, plugin: str, source: str, *, version: str = "1.0", module: str = "") -> None:
        """Install a distribution whose entry point `plugin` names a module of this source."""
        module = module or f"fake_{plugin.replace('-', '_')}"
        self.module(module, source)
        self.metadata(plugin, module, version=version)

    def metadata(
        self, plugin: str, target: str, *, version: str = "1.0", distribution: str = ""
    ) -> None:
        """Write the metadata of a distribution whose entry point `plugin` has this target."""
        distribution = distribution or f"fake_{plugin.replace('-', '_')}"
        info = self.path / f"{distribution}-{version}.dist-info"
        info.mkdir()
        head = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(head)
        (info / "entry_points.txt").write_text(f"[budmlx]\n{plugin} = {target}\n")
