"""What a user installs is complete and nothing else; what the README names is there."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_every_module_and_the_runner_jar(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"beam_k8s"}
    for folder, package in (("beam_k8s", ""), ("launcher", "launcher/"), ("transforms", "transforms/")):
        for module in (ROOT / folder).glob("*.py"):
            assert f"beam_k8s/{package}{module.name}" in names
    assert "beam_k8s/jars/beam-k8s-runner.jar" in names


def test_every_path_that_the_readme_names_exists():
    table = (ROOT / "README.md").read_text().partition("## To change X")[2]
    paths = re.findall(r"`([^`]+/[^`]+)`", table)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
