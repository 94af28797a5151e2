"""Secret options whose values the user's own code holds: they would get into the job's image with it."""

from __future__ import annotations

import base64
import bz2
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from beam_k8s.errors import BeamK8sError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["leak_errors"]

_SECRET = re.compile(r"passw|pwd|secret|token|credential|private_?key|api_?key|access_?key|jaas", re.IGNORECASE)
_SHORTEST = 4
"""Characters of a value below which it is found anywhere."""
_PICKLE = re.compile(rb"QlpoOTFBWSZTW[A-Za-z0-9+/]+={0,2}")
"""How Beam writes a pickle into the pipeline: compressed by bzip2, in base64."""


def leak_errors(options: Mapping[str, Any], code: Iterable[bytes]) -> list[BeamK8sError]:
    """One error for each option that is named like a secret and whose value is in what workers unpickle.

    Args:
        options: of the pipeline, by name.
        code: the pipeline proto, the pickled main session.
    """
    parts = [part for blob in code for part in (blob, *_pickles(blob))]
    return [
        ConfigError(
            f"--{name}: its value is held by a step or a global of the main module: it would be in the image.",
            hint="Let the workers read it instead: from the options in DoFn.setup "
            "(RuntimeValueProvider.runtime_options), or from a Secret (--k8s_secrets).",
        )
        for name, value in options.items()
        if _SECRET.search(name) and isinstance(value, str) and len(value) >= _SHORTEST
        if any(value.encode() in part for part in parts)
    ]


def _pickles(blob: bytes) -> Iterable[bytes]:
    for found in _PICKLE.findall(blob):
        # What follows it in the proto may look like base64; the decompressor knows where it ends.
        text = found.rstrip(b"=")
        rest = len(text) % 4
        text = text[:-1] if rest == 1 else text + b"=" * (-rest % 4)
        with suppress(OSError, ValueError):
            yield bz2.BZ2Decompressor().decompress(base64.b64decode(text))
