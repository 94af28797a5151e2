"""What a pod of a job can reach: its storage, its brokers, the API server. Run in a pod by ``beam-k8s doctor``.

One argument, JSON: ``{"storage": URL or null, "conf": {Flink setting: value}, "brokers": ["host:port"]}``. One line of
JSON on stdout for each finding: ``{"check": ..., "error": ...}``; an empty error says that all is well.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

__all__ = ["main"]

SECONDS = 10
"""Longest wait for a broker or for the API server."""
STORAGE_SECONDS = 60
"""Longest wait for the storage: clients of object stores try again for long."""
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_MAIN = "org.beamk8s.runner.StorageProbe"


def _storage(url: str, conf: dict[str, str]) -> str:
    """Why Flink's file systems cannot write, read and delete there."""
    classpath = f"{os.environ['FLINK_HOME']}/lib/*"
    settings = [f"{key}={value}" for key, value in conf.items()]
    try:
        ended = subprocess.run(
            ["java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", classpath, _MAIN, url, *settings],
            capture_output=True,
            text=True,
            check=False,
            timeout=STORAGE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {STORAGE_SECONDS} s"
    said = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
    return said[-1] if ended.returncode else ""


def _broker(address: str) -> str:
    """Why a broker, or one of those that it names, cannot be reached."""
    host, _, port = address.rpartition(":")
    if error := _connection(host, int(port)):
        return error
    try:
        with closing(KafkaAdminClient(bootstrap_servers=address, bootstrap_timeout_ms=SECONDS * 1000)) as admin:
            brokers = admin.describe_cluster()["brokers"]
    except (KafkaError, OSError, ValueError):
        return ""  # it wants TLS or a login, which only the pipeline has
    for broker in brokers:
        if error := _connection(broker["host"], broker["port"]):
            return f"it answers, and names a broker {broker['host']}:{broker['port']} that does not: {error}"
    return ""


def _connection(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), timeout=SECONDS).close()
    except OSError as cause:
        return cause.strerror or str(cause)
    return ""


def _account() -> str:
    """Why the pod's account cannot keep what Flink's high availability writes."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {
            "resourceAttributes": {
                "namespace": (_ACCOUNT / "namespace").read_text(),
                "verb": "create",
                "resource": "configmaps",
            }
        },
    }
    server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    request = urllib.request.Request(  # noqa: S310 - https
        f"{server}/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        json.dumps(review).encode(),
        {"Authorization": f"Bearer {(_ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"},
    )
    trust = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=SECONDS, context=trust) as answer:  # noqa: S310
            allowed = json.load(answer)["status"]["allowed"]
    except OSError as cause:
        return f"the API server does not answer: {cause}"
    return "" if allowed else "it may not create configmaps"


def main(argument: str) -> None:
    """Look at all, and say it."""
    wanted: dict[str, Any] = json.loads(argument)

    def say(check: str, error: str) -> None:
        print(json.dumps({"check": check, "error": error}), flush=True)

    say("account", _account())
    for broker in wanted["brokers"]:
        say(f"broker {broker}", _broker(broker))
    if wanted["storage"]:
        say("storage", _storage(wanted["storage"], wanted["conf"]))


if __name__ == "__main__":
    main(sys.argv[1])
