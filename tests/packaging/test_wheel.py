"""What a user installs is complete and nothing else; what the README names is there."""

import re
import subprocess
import sys
import zipfile

import pytest

from tests.cluster.launch import ROOT, Launch

PIP = [sys.executable, "-m", "pip"]

PIPELINE = """
import sys
import apache_beam as beam
import beam_k8s

if __name__ == "__main__":
    print("installed in", beam_k8s.__file__)
    with beam.Pipeline(argv=sys.argv) as p:
        p | beam.Create([20, 22]) | beam.CombineGlobally(sum) | beam.Map(lambda n: print("sum", n))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([*PIP, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_every_module_and_the_runner_jar(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"beam_k8s"}
    parts = {"beam_k8s": "", "beam_k8s/autoscaler": "autoscaler/", "launcher": "launcher/", "transforms": "transforms/"}
    for folder, package in parts.items():
        for module in (ROOT / folder).glob("*.py"):
            assert f"beam_k8s/{package}{module.name}" in names
    assert "beam_k8s/jars/beam-k8s-runner.jar" in names


def test_a_job_runs_from_the_installed_wheel_alone(wheel, tmp_path):
    site = tmp_path / "site"
    subprocess.run([*PIP, "install", "--quiet", "--no-deps", "--target", site, wheel], check=True)
    script = tmp_path / "my_pipeline.py"
    script.write_text(PIPELINE)
    launch = Launch(script, ["--runner=FlinkK8s", "--k8s_target=local"], tmp_path, {"PYTHONPATH": str(site)})
    try:
        assert launch.wait() == 0, launch.output
        assert f"installed in {site}" in launch.output
        assert "sum 42" in launch.output
        assert not launch.processes()
    finally:
        launch.kill_all()


def test_every_path_that_the_readme_names_exists():
    table = (ROOT / "README.md").read_text().partition("## To change X")[2]
    paths = re.findall(r"`([^`]+/[^`]+)`", table)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
