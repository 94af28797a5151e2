"""One place for versions, told to four tools."""

import re
import tomllib
from pathlib import Path

from beam_k8s import versions

ROOT = Path(__file__).parents[2]


def test_pip_maven_go_and_the_code_agree_on_versions():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    go_mod = (ROOT / "tests/cluster/prism/go.mod").read_text()
    pom = (ROOT / "images/runner/pom.xml").read_text()
    assert f"apache-beam=={versions.BEAM}" in dependencies
    assert f"apache-flink-libraries=={versions.FLINK}" in dependencies
    assert f"github.com/apache/beam/sdks/v2 v{versions.BEAM} " in go_mod
    assert re.search(rf"<beam.version>{versions.BEAM}</beam.version>", pom)
    assert re.search(rf"<flink.version>{versions.FLINK}</flink.version>", pom)
    assert re.search(rf"<kafka.connector.version>{versions.KAFKA_CONNECTOR}</kafka.connector.version>", pom)
