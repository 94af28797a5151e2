"""Managed Apache Beam Python jobs on Apache Flink on Kubernetes.

Importing this package makes ``--runner=FlinkK8s`` known to Beam, without importing Beam itself. The public names are
loaded when first used, so that the worker never loads the launcher.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from beam_k8s import _register

if TYPE_CHECKING:
    from beam_k8s.launcher.runner import FlinkK8s as FlinkK8s
    from beam_k8s.transforms import ReadFromKafka as ReadFromKafka
    from beam_k8s.transforms import WriteToKafka as WriteToKafka

__all__ = ["FlinkK8s", "ReadFromKafka", "WriteToKafka", "__version__"]

try:
    __version__ = version("beam-k8s")
except PackageNotFoundError:  # a source tree on PYTHONPATH
    __version__ = "0+unknown"

_LAZY = {
    "FlinkK8s": "beam_k8s.launcher.runner",
    "ReadFromKafka": "beam_k8s.transforms",
    "WriteToKafka": "beam_k8s.transforms",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'beam_k8s' has no attribute {name!r}")


_register.install()
