"""OCI images without a container engine: layers whose bytes depend on their content alone, and a registry's HTTP API.

An image is a manifest that names blobs by digest, so layers can be put on a base image that stays where it is: no
daemon, no root, no download of the base, and no byte sent that the registry has. The same files give the same digest on
any machine: entries are sorted, owned by root, dated 0, and layers are not compressed, for what a compressor writes
differs from one version of it to the next.

Sources: OCI Image Format 1.1 (manifest, config, layer), OCI Distribution 1.1 (the API), Docker's token authentication.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import requests

from beam_k8s.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "Image",
    "ImageReference",
    "Layer",
    "Progress",
    "Registry",
    "Runtime",
    "build",
    "make_layer",
    "parse_reference",
]

Progress = Callable[[str, int, int], None]
"""Told what is being sent: its digest, bytes sent so far, bytes of all of it."""

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
_DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_OCI_OF_DOCKER = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": LAYER + "+gzip",
    "application/vnd.docker.image.rootfs.diff.tar": LAYER,
}
_ACCEPT = f"{MANIFEST}, {INDEX}, {_DOCKER_MANIFEST}, {_DOCKER_INDEX}"
_EPOCH = "1970-01-01T00:00:00Z"
_TIMEOUT_SECONDS = 60.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

_REFERENCE = re.compile(
    r"(?:(?P<registry>localhost(?::\d+)?|[^/]+[.:][^/]*)/)?"
    r"(?P<repository>[a-z0-9]+(?:(?:/|\.|__?|-+)[a-z0-9]+)*)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True, slots=True)
class ImageReference:
    """The name of an image: ``registry/repository:tag@digest``."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def wanted(self) -> str:
        """What to ask the registry for: the digest if there is one, else the tag."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def parse_reference(option: str, text: str) -> ImageReference:
    """Read an image's name as Docker does: without a registry it is Docker Hub's.

    Args:
        option: the flag it was given with, for the error.
        text: the name.

    Raises:
        ConfigError: it is no name of an image.
    """
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"{option}={text} is not the name of an image.",
            hint="Use REGISTRY/REPOSITORY, REGISTRY/REPOSITORY:TAG or REGISTRY/REPOSITORY@sha256:DIGEST, lower case.",
        )
    registry, repository = found["registry"] or "docker.io", found["repository"]
    if registry == "docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    return ImageReference(registry, repository, found["tag"], found["digest"])


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer as a file on this machine."""

    digest: str
    """``sha256:`` of the tar file. Layers are not compressed, so it is the diff id too."""
    size: int
    """Bytes."""
    file: Path


@dataclass(frozen=True, slots=True)
class Runtime:
    """How containers of an image run; what is empty is the base image's."""

    user: str = ""
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the base image's."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Added to the base image's."""


@dataclass(frozen=True, slots=True)
class Image:
    """A built image that a registry has."""

    reference: ImageReference
    """With the digest."""
    sent: int
    """Bytes that had to be sent for it; 0 when nothing has changed."""


def make_layer(folder: Path, at: str, file: Path, *, own: Callable[[Path], bool] = lambda _: True) -> Layer:
    """Pack a folder as a layer.

    Args:
        folder: what to pack. Symbolic links stay links.
        at: absolute path of the folder's content in the image.
        file: where the layer is written; replaced if it is there.
        own: which files and folders below ``folder`` belong to it; a folder that does not is not looked into.
    """
    entries: dict[str, Path] = {}
    parent = ""
    for part in at.strip("/").split("/"):
        parent = f"{parent}/{part}".strip("/")
        entries[parent] = folder
    for found, folders, files in os.walk(folder):
        here = Path(found)
        folders[:] = [name for name in folders if own(here / name)]
        for name in (*folders, *(name for name in files if own(here / name))):
            path = here / name
            entries[f"{at.strip('/')}/{path.relative_to(folder).as_posix()}"] = path
    digest = hashlib.sha256()
    with file.open("wb") as out, tarfile.open(fileobj=_Tee(out, digest), mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(entries):
            _add(tar, name, entries[name])
    return Layer(f"sha256:{digest.hexdigest()}", file.stat().st_size, file)


def _add(tar: tarfile.TarFile, name: str, path: Path) -> None:
    info = tarfile.TarInfo(name)
    if path.is_symlink():
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
        tar.addfile(info)
    elif path.is_dir():
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(info)
    else:
        # Who may run it is content; umask and group of the machine that built it are not.
        info.size, info.mode = path.stat().st_size, 0o755 if os.access(path, os.X_OK) else 0o644
        with path.open("rb") as content:
            tar.addfile(info, content)


class _Tee(io.RawIOBase):
    """A file for writing whose bytes are hashed on their way."""

    def __init__(self, out: Any, digest: Any) -> None:
        self._out, self._digest = out, digest

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return int(self._out.write(data))


def _silent(digest: str, sent: int, total: int) -> None:
    """Progress that nobody wants to see."""


def build(
    registry: Registry,
    base: ImageReference,
    layers: Sequence[Layer],
    runtime: Runtime,
    target: ImageReference,
    *,
    source: Registry | None = None,
    progress: Progress = _silent,
) -> Image:
    """Put layers on a base image, and have a registry keep the result. What it has already is not sent again.

    Args:
        registry: where the result belongs.
        base: the image below; of several platforms the one of this machine is taken.
        layers: from rarely to often changed, so that what changes often is sent alone.
        runtime: how its containers run.
        target: the name of the result. Without a tag it can be had by its digest only.
        source: where the base is; None = in the same registry.
        progress: told of each blob as it is sent.

    Raises:
        ImageError: a registry does not answer, refuses, or does not have the base.
    """
    source = source or registry
    manifest = source.platform_manifest(base)
    config = json.loads(source.blob(base.repository, manifest["config"]["digest"]))
    config, manifest = _stacked(config, manifest, layers, runtime)
    content = _canonical(manifest)
    digest = _digest(content)
    image = ImageReference(target.registry, target.repository, target.tag, digest)
    if registry.digest_of(ImageReference(target.registry, target.repository, target.tag or digest)) == digest:
        return Image(image, 0)
    sent = 0
    for inherited in manifest["layers"][: len(manifest["layers"]) - len(layers)]:
        sent += registry.copy(target.repository, inherited, source, base.repository, progress)
    for layer in layers:
        sent += registry.send(target.repository, layer.digest, layer.file, progress)
    sent += registry.send(target.repository, manifest["config"]["digest"], _canonical(config))
    sent += registry.send_manifest(target.repository, target.tag or digest, content)
    return Image(image, sent)


def _stacked(
    config: Mapping[str, Any], manifest: Mapping[str, Any], layers: Sequence[Layer], runtime: Runtime
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Config and manifest of an image with more layers. Pure."""
    below = config.get("config") or {}
    run = {
        **below,
        "Env": [
            *(each for each in below.get("Env") or () if each.partition("=")[0] not in runtime.environment),
            *(f"{name}={value}" for name, value in sorted(runtime.environment.items())),
        ],
        "Labels": {**(below.get("Labels") or {}), **runtime.labels},
    }
    if runtime.user:
        run["User"] = runtime.user
    if runtime.entrypoint:
        run["Entrypoint"] = list(runtime.entrypoint)
    if runtime.command:
        run["Cmd"] = list(runtime.command)
    stacked = {
        **{key: config[key] for key in ("architecture", "os", "variant") if key in config},
        "created": _EPOCH,
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [*config["rootfs"]["diff_ids"], *(each.digest for each in layers)]},
    }
    content = _canonical(stacked)
    return stacked, {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": _digest(content), "size": len(content)},
        "layers": [
            *(
                {**each, "mediaType": _OCI_OF_DOCKER.get(each["mediaType"], each["mediaType"])}
                for each in manifest["layers"]
            ),
            *({"mediaType": LAYER, "digest": each.digest, "size": each.size} for each in layers),
        ],
    }


def _canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class _Counted:
    """A file that is sent: its length is known beforehand, a part of it at a time is in memory, and it is counted."""

    def __init__(self, content: Any, digest: str, size: int, progress: Progress) -> None:
        self._content, self._digest, self._size, self._progress = content, digest, size, progress
        self._sent = 0

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> bytes:
        data = bytes(self._content.read(size))
        self._sent += len(data)
        if data:
            self._progress(self._digest, self._sent, self._size)
        return data

    def seek(self, offset: int) -> None:
        self._content.seek(offset)
        self._sent = offset


class Registry:
    """One registry's HTTP API, with the credentials that ``docker login`` left for it.

    Nothing is asked of it before the first call. Plain HTTP is spoken with this machine only, or where it is asked for.

    Args:
        host: ``HOST`` or ``HOST:PORT`` as in the names of its images.
        plain_http: speak HTTP with it; None = with loopback addresses.
        docker_config: folder of ``config.json``; None = ``$DOCKER_CONFIG``, or ``~/.docker``.
    """

    def __init__(self, host: str, *, plain_http: bool | None = None, docker_config: Path | None = None) -> None:
        self.host = host
        if plain_http is None:
            plain_http = host.partition(":")[0] in {"localhost", "127.0.0.1"}
        server = "registry-1.docker.io" if host == "docker.io" else host
        self._url = f"{'http' if plain_http else 'https'}://{server}/v2/"
        self._config = docker_config or Path(os.environ.get("DOCKER_CONFIG", Path.home() / ".docker"))
        self._session = requests.Session()
        self._tokens: dict[str, str] = {}

    def platform_manifest(self, image: ImageReference) -> dict[str, Any]:
        """The manifest of an image for this machine's platform.

        Raises:
            ImageError: there is no such image, or not for this platform.
        """
        manifest = self._manifest(image.repository, image.wanted, str(image))
        if "manifests" not in manifest:
            return manifest
        architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
        for each in manifest["manifests"]:
            of = each.get("platform", {})
            if (of.get("os"), of.get("architecture")) == ("linux", architecture):
                return self._manifest(image.repository, each["digest"], str(image))
        raise ImageError(f"image {image} is not there for linux/{architecture}.", hint="Name another base image.")

    def _manifest(self, repository: str, reference: str, shown: str) -> dict[str, Any]:
        answer = self._ask("GET", repository, f"manifests/{reference}", headers={"Accept": _ACCEPT}, allowed=(404,))
        if answer.status_code == requests.codes.not_found:
            raise ImageError(f"image {shown} does not exist.", hint="Check its name, or push it first.")
        return dict(answer.json())

    def digest_of(self, image: ImageReference) -> str | None:
        """The digest of an image's manifest; None if the registry does not have the image."""
        answer = self._ask(
            "HEAD", image.repository, f"manifests/{image.wanted}", headers={"Accept": _ACCEPT}, allowed=(404,)
        )
        return answer.headers.get("Docker-Content-Digest") if answer.ok else None

    def blob(self, repository: str, digest: str) -> bytes:
        """The bytes of a blob, their digest checked."""
        content = self._ask("GET", repository, f"blobs/{digest}").content
        if _digest(content) != digest:
            raise ImageError(f"registry {self.host} gave other bytes than {digest} for {repository}.")
        return content

    def has(self, repository: str, digest: str) -> bool:
        """Whether the repository has a blob."""
        return self._ask("HEAD", repository, f"blobs/{digest}", allowed=(404,)).ok

    def copy(
        self, repository: str, blob: Mapping[str, Any], source: Registry, origin: str, progress: Progress = _silent
    ) -> int:
        """Let a repository have a blob of another one; the number of bytes sent. Most registries do it by themselves.

        Args:
            repository: of this registry.
            blob: its descriptor in a manifest.
            source: the other repository's registry.
            origin: the other repository.
            progress: told as it is sent; the blob comes and goes, and is never here as a whole.
        """
        digest, size = blob["digest"], int(blob["size"])
        if (self.host == source.host and repository == origin) or self.has(repository, digest):
            return 0
        wanted = {"mount": digest, "from": origin} if self.host == source.host else {}
        answer = self._ask("POST", repository, "blobs/uploads/", params=wanted)
        if answer.status_code == requests.codes.created:
            return 0
        with source._ask("GET", origin, f"blobs/{digest}", stream=True) as content:
            return self._upload(repository, answer, digest, _Counted(content.raw, digest, size, progress))

    def send(self, repository: str, digest: str, content: Path | bytes, progress: Progress = _silent) -> int:
        """Send a blob unless the repository has it; the number of bytes sent."""
        if self.has(repository, digest):
            return 0
        answer = self._ask("POST", repository, "blobs/uploads/")
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as data:
            return self._upload(repository, answer, digest, _Counted(data, digest, size, progress))

    def _upload(self, repository: str, answer: requests.Response, digest: str, content: _Counted) -> int:
        """Send a blob to where the answer to a POST says; the number of bytes sent."""
        headers = {"Content-Type": "application/octet-stream"}
        where = answer.headers["Location"]
        self._ask("PUT", repository, where, params={"digest": digest}, data=content, headers=headers)
        return len(content)

    def send_manifest(self, repository: str, reference: str, content: bytes) -> int:
        """Send a manifest unless ``reference``, a tag or digest, names it already; the number of bytes sent."""
        if self.digest_of(ImageReference(self.host, repository, reference)) == _digest(content):
            return 0
        self._ask("PUT", repository, f"manifests/{reference}", data=content, headers={"Content-Type": MANIFEST})
        return len(content)

    def _ask(
        self, method: str, repository: str, path: str, *, allowed: Sequence[int] = (), **arguments: Any
    ) -> requests.Response:
        """One request of the API; again with credentials if the registry wants some.

        Args:
            method: of HTTP.
            repository: that it is about.
            path: below the repository's, or the address that the registry gave for an upload.
            allowed: HTTP errors that are answers.
            arguments: for requests.
        """
        url = urljoin(f"{self._url}{repository}/", path)
        response = self._send(method, url, repository, arguments)
        if response.status_code == requests.codes.unauthorized and self._log_in(response, repository):
            if hasattr(data := arguments.get("data"), "seek"):
                data.seek(0)  # type: ignore[union-attr]
            response = self._send(method, url, repository, arguments)
        if not response.ok and response.status_code not in allowed:
            raise ImageError(
                f"registry {self.host} refused {method} of {repository}: {_reason(response)}", hint=self._hint(response)
            )
        return response

    def _send(self, method: str, url: str, repository: str, arguments: dict[str, Any]) -> requests.Response:
        headers = dict(arguments.get("headers") or {})
        # Uploads and blobs may be somewhere else: a registry's credentials are for the registry.
        if url.startswith(self._url) and repository in self._tokens:
            headers["Authorization"] = self._tokens[repository]
        try:
            return self._session.request(method, url, **{"timeout": _TIMEOUT_SECONDS, **arguments, "headers": headers})
        except requests.RequestException as cause:
            raise ImageError(
                f"registry {self.host} does not answer: {type(cause).__name__}.",
                hint="Check the name, the network, and whether it speaks HTTPS.",
            ) from cause

    def _log_in(self, response: requests.Response, repository: str) -> bool:
        """Take the challenge of a 401; whether there is something new to try."""
        scheme, _, parameters = response.headers.get("WWW-Authenticate", "").partition(" ")
        basic = self._credentials()
        if scheme.lower() == "basic" and basic:
            new = f"Basic {basic}"
        elif scheme.lower() == "bearer":
            challenge = dict(re.findall(r'(\w+)="([^"]*)"', parameters))
            query = {key: challenge[key] for key in ("service", "scope") if key in challenge}
            try:
                answer = self._session.get(
                    challenge["realm"],
                    params=query,
                    headers={"Authorization": f"Basic {basic}"} if basic else {},
                    timeout=_TIMEOUT_SECONDS,
                )
            except (KeyError, requests.RequestException):
                return False
            if not answer.ok:
                return False
            found = answer.json()
            new = f"Bearer {found.get('token') or found.get('access_token')}"
        else:
            return False
        if self._tokens.get(repository) == new:
            return False
        self._tokens[repository] = new
        return True

    def _credentials(self) -> str | None:
        """``user:password`` in base64, as ``docker login`` stored it or a credential helper gives it."""
        try:
            config = json.loads((self._config / "config.json").read_text())
        except (OSError, ValueError):
            return None
        names = {self.host, f"https://{self.host}"} | (
            {"https://index.docker.io/v1/"} if self.host == "docker.io" else set()
        )
        helper = (config.get("credHelpers") or {}).get(self.host) or config.get("credsStore")
        for name in names:
            stored = (config.get("auths") or {}).get(name, {}).get("auth")
            if stored:
                return str(stored)
            if helper and (given := _from_helper(helper, name)):
                return given
        return None

    def _hint(self, response: requests.Response) -> str:
        if response.status_code in {requests.codes.unauthorized, requests.codes.forbidden}:
            return f"Log in with an account that may do so: docker login {self.host}"
        return ""


def _from_helper(helper: str, server: str) -> str | None:
    """Ask Docker's credential helper of this name, by its protocol: the server's name in, JSON out."""
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", "get"], input=server, capture_output=True, text=True, timeout=30, check=True
        )
        found = json.loads(done.stdout)
        return base64.b64encode(f"{found['Username']}:{found['Secret']}".encode()).decode()
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return None


def _reason(response: requests.Response) -> str:
    """What a registry says of a refusal."""
    try:
        return "; ".join(each.get("message") or each["code"] for each in response.json()["errors"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"
