"""A certificate authority of a test's own, by the openssl that a Debian machine with a JDK has."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Authority"]


class Authority:
    """Signs certificates that hold for two days.

    Args:
        folder: for its files; made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate = folder / "authority.pem"
        """Its own, by which others know those that it has signed."""
        self._key = folder / "authority.key"
        self._make("authority", self._key, self.certificate)

    def issue(self, name: str, *, password: str = "") -> Path:
        """A PEM file with a key, as PKCS#8, and its certificate for ``name``, which is a host name too.

        Args:
            name: of whom it speaks.
            password: of the key; encrypted as Java 17 can read it. Empty: it is not encrypted.
        """
        key, certificate, both = (self._folder / f"{name}.{end}" for end in ("key", "crt", "pem"))
        self._make(
            *(name, key, certificate, "-CA", self.certificate, "-CAkey", self._key),
            *("-addext", "basicConstraints=critical,CA:FALSE", "-addext", f"subjectAltName=DNS:{name}"),
        )
        if password:
            plain, key = key, key.with_suffix(".encrypted")
            encryption = ("pkcs8", "-topk8", "-v1", "PBE-SHA1-3DES", "-passout", "env:KEY_PASSWORD")
            _openssl(*encryption, "-in", plain, "-out", key, KEY_PASSWORD=password)
        both.write_text(key.read_text() + certificate.read_text())
        return both

    def _make(self, name: str, key: Path, certificate: Path, *options: str | Path) -> None:
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-keyout", key)
        _openssl("req", "-x509", "-days", "2", "-subj", f"/CN={name}", *new_key, "-out", certificate, *options)


def _openssl(*arguments: str | Path, **environment: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, env={**os.environ, **environment})
