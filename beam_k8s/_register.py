"""Makes ``--runner=FlinkK8s`` known to Beam, which has no entry point for runners of other packages.

Beam resolves runner names in ``apache_beam.runners.runner._RUNNER_MAP``. Importing Beam takes about a second, so we
do not: if it is loaded already its map is filled now, else a meta-path finder fills it right after Beam's module has
run, whoever imports it.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["install"]

_BEAM_MODULE = "apache_beam.runners.runner"
_RUNNER = "beam_k8s.launcher.runner.FlinkK8s"


def _fill(module: ModuleType) -> None:
    # Beam looks a name up in lower case, as it is and with "runner" appended.
    for name in ("flinkk8s", "flinkk8srunner"):
        module._RUNNER_MAP[name] = _RUNNER  # noqa: SLF001 - there is no public way in


class _FillingLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _fill(module)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _BEAM_MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _FillingLoader(spec.loader)
        return spec


def install() -> None:
    """Make the runner known, now or as soon as Beam is imported. Idempotent."""
    module = sys.modules.get(_BEAM_MODULE)
    if module is not None and hasattr(module, "_RUNNER_MAP"):
        _fill(module)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
