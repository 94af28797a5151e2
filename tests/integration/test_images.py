"""Layers depend on their content alone, and a real registry is sent what it does not have and nothing else."""

import base64
import io
import json
import os
import tarfile

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from hypothesis import given
from hypothesis import strategies as st

from beam_k8s.errors import ConfigError, ImageError
from beam_k8s.launcher import oci
from beam_k8s.launcher.image import RegistryBuilder, build_job_image, job_layers
from beam_k8s.launcher.oci import ImageReference, Registry, Runtime, parse_reference
from beam_k8s.launcher.staging import stage
from tests.cluster.registry import ImageRegistry

FILES = {"a.py": b"print('a')\n", "lib/b.txt": b"b" * 5000, "lib/empty": b"", "run": b"#!/bin/sh\n"}
# "alice" and "wonderland", by htpasswd -nbB
HTPASSWD = "alice:$2y$05$abcdefghijklmnopqrstuuA0vov2GDneHB3.8.cv9UF9g.RdvScIW"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with ImageRegistry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def lay_out(folder, files=None, *, mode=0o644, mtime=1.0, order=sorted):
    files = FILES if files is None else files
    for name in order(files):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name])
        path.chmod(0o755 if name == "run" else mode)
        os.utime(path, (mtime, mtime))
    return folder


def push_base(registry, repository):
    """An image of one layer, written to the registry by hand; its reference."""
    api = Registry(registry.host)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("base"))
    layer = content.getvalue()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin", "HOME=/"], "User": "9999", "Labels": {"base": "yes"}},
            "rootfs": {"type": "layers", "diff_ids": [oci._digest(layer)]},
        }
    ).encode()
    for blob in (layer, config):
        api.send(repository, oci._digest(blob), blob)
    manifest = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": {"mediaType": oci.CONFIG, "digest": oci._digest(config), "size": len(config)},
        "layers": [{"mediaType": oci.LAYER, "digest": oci._digest(layer), "size": len(layer)}],
    }
    api.send_manifest(repository, "1", json.dumps(manifest).encode())
    return ImageReference(registry.host, repository, "1")


def test_the_same_files_are_the_same_layer_on_any_machine(tmp_path):
    first = lay_out(tmp_path / "first")
    second = lay_out(tmp_path / "second", mode=0o600, mtime=1e9, order=lambda names: sorted(names, reverse=True))
    layers = [oci.make_layer(folder, "/opt/job", tmp_path / f"{folder.name}.tar") for folder in (first, second)]
    assert layers[0].digest == layers[1].digest
    with tarfile.open(layers[0].file) as tar:
        names = tar.getnames()
        assert names == sorted(names)
        assert {f"opt/job/{name}" for name in FILES} | {"opt", "opt/job", "opt/job/lib"} == set(names)
        assert tar.extractfile("opt/job/lib/b.txt").read() == FILES["lib/b.txt"]
        assert {info.mtime for info in tar} == {0}
        assert [info.name for info in tar if info.isfile() and info.mode & 0o111] == ["opt/job/run"]


@pytest.mark.parametrize("change", ["content", "name", "executable", "place"])
def test_another_content_name_mode_or_place_is_another_layer(tmp_path, change):
    before = oci.make_layer(lay_out(tmp_path / "before"), "/opt/job", tmp_path / "before.tar")
    files = dict(FILES)
    if change == "content":
        files["a.py"] = b"print('b')\n"
    elif change == "name":
        files["c.py"] = files.pop("a.py")
    folder = lay_out(tmp_path / "after", files)
    if change == "executable":
        (folder / "a.py").chmod(0o755)
    after = oci.make_layer(folder, "/opt/other" if change == "place" else "/opt/job", tmp_path / "after.tar")
    assert after.digest != before.digest


def test_what_is_not_its_own_is_not_in_a_layer_and_links_stay_links(tmp_path):
    folder = lay_out(tmp_path / "job", {"a.py": b"", "__pycache__/a.pyc": b"", "lib/x.pyc": b""})
    (folder / "link").symlink_to("a.py")
    layer = oci.make_layer(folder, "/opt", tmp_path / "tar", own=lambda path: "pyc" not in path.name)
    with tarfile.open(layer.file) as tar:
        assert tar.getnames() == ["opt", "opt/a.py", "opt/lib", "opt/link"]
        assert tar.getmember("opt/link").linkname == "a.py"


def test_only_what_changed_is_sent(registry, tmp_path):
    base = push_base(registry, "base/runtime")
    rare = oci.make_layer(lay_out(tmp_path / "rare", {"big": b"x" * 3_000_000}), "/opt/rare", tmp_path / "rare.tar")
    api = Registry(registry.host)
    runtime = Runtime(entrypoint=["/run"], environment={"HOME": "/tmp", "A": "1"}, labels={"job": "x"})
    target = ImageReference(registry.host, "team/job", "latest")

    def built(code):
        folder = lay_out(tmp_path / f"code{len(code)}", {"main.py": code})
        often = oci.make_layer(folder, "/opt/code", tmp_path / "code.tar")
        return oci.build(api, base, [rare, often], runtime, target), often

    first, _ = built(b"one")
    assert first.sent > rare.size
    again, _ = built(b"one")
    assert (again.reference, again.sent) == (first.reference, 0)
    changed, often = built(b"other")
    assert changed.reference.digest != first.reference.digest
    assert 0 < changed.sent - often.size < 3_000  # its config and its manifest

    manifest = api.platform_manifest(changed.reference)
    config = json.loads(api.blob("team/job", manifest["config"]["digest"]))
    assert config["config"] == {
        "Env": ["PATH=/bin", "A=1", "HOME=/tmp"],
        "User": "9999",
        "Labels": {"base": "yes", "job": "x"},
        "Entrypoint": ["/run"],
    }
    assert [each["digest"] for each in manifest["layers"]] == config["rootfs"]["diff_ids"]
    with tarfile.open(fileobj=io.BytesIO(api.blob("team/job", manifest["layers"][-1]["digest"]))) as tar:
        assert tar.extractfile("opt/code/main.py").read() == b"other"
    assert api.digest_of(target) == changed.reference.digest


def test_the_same_requirements_packages_and_pipeline_are_the_same_layers_wherever_they_are_made(tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("tenacity==9.0.0\n")

    def layers(where, version="1"):
        package = tmp_path / where / "source"
        lay_out(package, {"mine.py": b"ANSWER = 42\n"})
        (package / "setup.py").write_text(f"import setuptools\nsetuptools.setup(name='mine', version='{version}')\n")
        staged, job = tmp_path / where / "staged", lay_out(tmp_path / where / "job", {"pipeline.pb": b"proto"})
        staged.mkdir()
        flags = [f"--requirements_file={requirements}", f"--setup_file={package}/setup.py"]
        stage(PipelineOptions(flags), staged)
        (staged / "pickled_main_session").write_bytes(b"session")
        return job_layers(staged, job, tmp_path / where)

    first, second, changed = layers("here"), layers("there", "1"), layers("elsewhere", "2")
    assert [layer.digest for layer in first] == [layer.digest for layer in second]
    assert [one.digest == other.digest for one, other in zip(first, changed, strict=True)] == [True, False, True, True]
    names = []
    for layer in first:
        with tarfile.open(layer.file) as tar:
            names.append({name.removeprefix("opt/beam_k8s/") for name in tar.getnames()})
    assert "staged/requirements/tenacity/__init__.py" in names[0]
    assert "staged/packages/mine.py" not in names[0]
    assert names[2] == {"opt", "opt/beam_k8s", "staged", "staged/pickled_main_session"}
    assert "job/pipeline.pb" in names[3]


def test_the_same_job_is_one_image_whoever_builds_it_and_is_sent_once(registry, tmp_path):
    base = push_base(registry, "base/runtime")
    sent = {}

    def built(where, umask, mtime, code=b"code", name="mine"):
        before = os.umask(umask)
        try:
            staged = lay_out(tmp_path / where / "staged", {"packages/mine.py": code}, mode=0o666 & ~umask, mtime=mtime)
            job = lay_out(tmp_path / where / "job", {"pipeline.pb": b"proto"}, mode=0o666 & ~umask, mtime=mtime)
            (tmp_path / where / "scratch").mkdir()
            return build_job_image(
                RegistryBuilder(),
                base=base,
                repository=ImageReference(registry.host, "team/jobs"),
                name=name,
                staged=staged,
                job=job,
                scratch=tmp_path / where / "scratch",
                progress=lambda digest, now, total: sent.update({digest: (now, total)}),
            )
        finally:
            os.umask(before)

    first = built("here", 0o022, 1.0)
    assert all(now == total for now, total in sent.values())
    assert first.sent > sum(total for _, total in sent.values()) > 0  # the manifest is no blob
    sent.clear()
    again = built("there", 0o077, 1e9)
    assert (again.reference, again.sent, sent) == (first.reference, 0, {})
    assert first.reference.tag.startswith("mine-")
    changed = built("elsewhere", 0o022, 1.0, code=b"other")
    assert (changed.reference.tag, changed.reference.digest) != (first.reference.tag, first.reference.digest)
    assert list(sent) == [oci.make_layer(*packed(tmp_path / "elsewhere")).digest]


def packed(folder):
    return folder / "staged" / "packages", "/opt/beam_k8s/staged/packages", folder / "packages.tar"


def test_a_base_in_another_registry_is_copied_once_and_its_progress_told(registry, tmp_path):
    base = push_base(registry, "base/runtime")
    layer = oci.make_layer(lay_out(tmp_path / "job"), "/opt/job", tmp_path / "job.tar")
    with ImageRegistry(tmp_path / "registry") as other:
        target = ImageReference(other.host, "team/job", "1")
        told = []
        builder = RegistryBuilder()
        first = builder.build(base, [layer], Runtime(), target, lambda *now: told.append(now))
        inherited = Registry(registry.host).platform_manifest(base)["layers"][0]
        assert (inherited["digest"], inherited["size"], inherited["size"]) in told
        assert first.sent > inherited["size"] + layer.size
        again = builder.build(base, [layer], Runtime(user="1"), target, lambda *now: None)
        assert again.sent < 2_000  # another config and manifest
        copied = Registry(other.host).blob("team/job", inherited["digest"])
        assert copied == Registry(registry.host).blob("base/runtime", inherited["digest"])


def test_a_registry_that_wants_a_login_is_used_with_that_of_docker_login(tmp_path):
    with ImageRegistry(tmp_path / "registry", htpasswd=HTPASSWD) as registry:
        blob, config = b"secret code", tmp_path / "docker"
        with pytest.raises(ImageError, match="refused") as refused:
            Registry(registry.host, docker_config=config).send("team/job", oci._digest(blob), blob)
        assert f"docker login {registry.host}" in refused.value.hint
        config.mkdir()
        auth = base64.b64encode(b"alice:wonderland").decode()
        (config / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
        api = Registry(registry.host, docker_config=config)
        assert api.send("team/job", oci._digest(blob), blob) == len(blob)
        assert api.blob("team/job", oci._digest(blob)) == blob


def test_what_is_not_there_is_one_clear_error(registry):
    with pytest.raises(ImageError, match=r"image .*/no/such:1 does not exist"):
        Registry(registry.host).platform_manifest(ImageReference(registry.host, "no/such", "1"))
    with pytest.raises(ImageError, match=r"registry 127.0.0.1:1 does not answer"):
        Registry("127.0.0.1:1").digest_of(ImageReference("127.0.0.1:1", "a/b", "1"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ubuntu", ("docker.io", "library/ubuntu", None, None)),
        ("me/job:1.2", ("docker.io", "me/job", "1.2", None)),
        ("localhost:5000/job", ("localhost:5000", "job", None, None)),
        ("localhost/job", ("localhost", "job", None, None)),
        ("ghcr.io/a/b-c/d:x@sha256:" + "0" * 64, ("ghcr.io", "a/b-c/d", "x", "sha256:" + "0" * 64)),
    ],
)
def test_names_of_images_are_read_as_docker_reads_them(text, parts):
    reference = parse_reference("--k8s_image", text)
    assert (reference.registry, reference.repository, reference.tag, reference.digest) == parts


@pytest.mark.parametrize("text", ["", "Upper/case", "a/b:", "a b", "host:5000/", "a@sha256:12", "a//b"])
def test_what_is_no_name_of_an_image_is_refused_with_its_option(text):
    with pytest.raises(ConfigError, match=f"--k8s_image={text} is not the name"):
        parse_reference("--k8s_image", text)


@given(st.from_regex(r"[a-z]{1,9}\.[a-z]{2,3}(:[1-9][0-9]{1,4})?/[a-z0-9]{1,9}(/[a-z0-9]{1,9})?", fullmatch=True))
def test_a_name_with_a_registry_is_written_as_it_was_read(text):
    assert str(parse_reference("--k8s_image", text)) == text
