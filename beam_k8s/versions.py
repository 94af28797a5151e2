"""The versions this release is built and tested with, in one place.

Users will want newer ones: change them here, in ``pyproject.toml`` (pip cannot read this file) and in
``images/runner/pom.xml`` (Maven cannot either); a test holds the three together.
"""

from __future__ import annotations

__all__ = ["BEAM", "FLINK", "JAVA", "KAFKA_CONNECTOR", "OPERATORS"]

BEAM = "2.62.0"
"""Apache Beam, Python SDK and Java Flink runner alike: the two speak one Fn API dialect."""

FLINK = "1.19.3"
"""Apache Flink; newest that Beam 2.62 has a runner for."""

KAFKA_CONNECTOR = "3.3.0-1.19"
"""flink-connector-kafka for that Flink."""

JAVA = 17
"""Oldest Java major version: the runner jar is compiled for it."""

OPERATORS = ("1.7.0", "1.10.0")
"""Flink Kubernetes operators whose FlinkDeployments this release writes, oldest and newest. 1.7 brought Flink 1.19."""
