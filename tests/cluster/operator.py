"""The operator's own FlinkDeployment CRD, from its API jar, as a schema that refuses what an API server would drop.

schema_errors(crd_schema("1.10.0"), document) == []
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

__all__ = ["crd_schema", "schema_errors"]

_REPO = Path(__file__).resolve().parents[2]
_ARTIFACT = "flink-kubernetes-operator-api"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
_CRD = "META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml"


def _api_jar(version: str) -> Path:
    """The jar, from a cache that Maven fills on the first call.

    Raises:
        subprocess.CalledProcessError: Maven failed.
    """
    folder = _REPO / ".cache" / f"operator-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    jar = folder / f"{_ARTIFACT}-{version}.jar"
    # Test processes side by side fill it once; a jar that is there is complete, because it was renamed into place.
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jar.is_file():
            part = folder / "part"
            subprocess.run(
                [
                    *("mvn", "-q", "-B", _COPY),
                    f"-Dartifact=org.apache.flink:{_ARTIFACT}:{version}",
                    f"-DoutputDirectory={part}",
                ],
                check=True,
                stdout=sys.stderr,
            )
            (part / jar.name).rename(jar)
    return jar


@cache
def crd_schema(version: str) -> dict[str, Any]:
    """JSON schema of a whole FlinkDeployment as this operator's CRD has it."""
    with zipfile.ZipFile(_api_jar(version)) as jar:
        crd = yaml.load(jar.read(_CRD), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (served,) = (each for each in crd["spec"]["versions"] if each["name"] == "v1beta1")
    schema = served["schema"]["openAPIV3Schema"]
    # Every kind has these; a CRD need not say so.
    schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return _strict(schema)


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema as plain JSON schema in which fields that the API server would prune are errors."""
    schema = dict(schema)
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in schema:
        schema["properties"] = {name: _strict(each) for name, each in schema["properties"].items()}
    if "items" in schema:
        schema["items"] = _strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = _strict(schema["additionalProperties"])
    elif schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    if schema.get("nullable"):
        return {"anyOf": [schema, {"type": "null"}]}
    return schema


def schema_errors(schema: dict[str, Any], document: dict[str, Any]) -> list[str]:
    """All that is wrong with a document, each as path: message."""
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
