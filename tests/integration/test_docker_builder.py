"""A real Docker engine builds a job's image and pushes it to a real registry."""

import gc
import io
import tarfile

import pytest

from beam_k8s.errors import ImageError
from beam_k8s.launcher import oci
from beam_k8s.launcher.docker_builder import DockerBuilder
from beam_k8s.launcher.oci import ImageReference, Registry, Runtime
from tests.cluster.engine import DockerEngine
from tests.cluster.registry import ImageRegistry
from tests.integration.test_images import lay_out, push_base

pytestmark = [
    pytest.mark.cluster,  # not for the cluster: for root on Debian, as it needs
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(autouse=True)
def _no_sockets_left():
    """docker-py leaves the connection of a stream that has ended to Python's collector: let no other test meet it."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with DockerEngine(tmp_path_factory.mktemp("engine")) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", running.url)
        patch.setenv("DOCKER_CONFIG", str(tmp_path_factory.mktemp("docker")))
        yield running


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with ImageRegistry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def test_only_what_changed_is_built_and_pushed(engine, registry, tmp_path):
    base = push_base(registry, "base/runtime")
    rare = oci.make_layer(lay_out(tmp_path / "rare", {"big": b"x" * 3_000_000}), "/opt/rare", tmp_path / "rare.tar")
    runtime = Runtime(environment={"HOME": "/tmp/$HOME", "A": 'a "b"'}, labels={"job": "x"}, entrypoint=["/run", "it"])
    told = []

    def built(tag, code):
        folder = lay_out(tmp_path / f"code{len(code)}", {"main.py": code, "run": b""})
        often = oci.make_layer(folder, "/opt/code", tmp_path / "code.tar")
        target = ImageReference(registry.host, "team/job", tag)
        return DockerBuilder().build(base, [rare, often], runtime, target, lambda *now: told.append(now))

    first = built("1", b"one")
    assert first.sent > 3_000_000
    assert any(sent == total > 3_000_000 for _, sent, total in told)
    told.clear()
    again = built("1", b"one")
    assert (again.reference, again.sent, told) == (first.reference, 0, [])
    changed = built("2", b"other")
    assert changed.reference.digest != first.reference.digest
    assert 0 < changed.sent < 20_000

    api = Registry(registry.host)
    assert api.digest_of(ImageReference(registry.host, "team/job", "2")) == changed.reference.digest
    manifest = api.platform_manifest(changed.reference)
    config = oci.json.loads(api.blob("team/job", manifest["config"]["digest"]))["config"]
    assert {"HOME=/tmp/$HOME", 'A=a "b"', "PATH=/bin"} == set(config["Env"])
    assert (config["User"], config["Entrypoint"]) == ("9999", ["/run", "it"])
    assert {"base": "yes", "job": "x"}.items() <= config["Labels"].items()
    content = api.blob("team/job", manifest["layers"][-1]["digest"])
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert tar.extractfile("opt/code/main.py").read() == b"other"
        assert [info.name for info in tar if info.isfile() and info.mode & 0o111] == ["opt/code/run"]


def test_what_cannot_be_had_or_kept_is_one_clear_error(engine, registry, tmp_path, monkeypatch):
    layer = oci.make_layer(lay_out(tmp_path / "job"), "/opt/job", tmp_path / "job.tar")

    def build(base, target):
        DockerBuilder().build(base, [layer], Runtime(), target, lambda *now: None)

    base = push_base(registry, "base/runtime")
    with pytest.raises(ImageError, match=r"not found|unknown"):
        build(ImageReference(registry.host, "no/such", "1"), ImageReference(registry.host, "team/job", "1"))
    with pytest.raises(ImageError, match="refused"):
        build(base, ImageReference("127.0.0.1:1", "team/job", "1"))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    with pytest.raises(ImageError) as refused:
        build(base, ImageReference(registry.host, "team/job", "1"))
    assert "docker version" in refused.value.hint
