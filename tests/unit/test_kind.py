"""What a user of kind is given: it cannot run here, but says the same as what the tests' cluster is made with."""

import re
import tomllib

import yaml

from beam_k8s.launcher.cli_cluster import DOWN, UP
from tests.cluster.launch import ROOT

KIND = ROOT / "images" / "kind"


def test_the_nodes_are_told_of_the_registry_that_the_readme_starts():
    cluster = yaml.safe_load((KIND / "cluster.yaml").read_text())
    assert (cluster["kind"], cluster["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    ((mount,),) = (node["extraMounts"] for node in cluster["nodes"])
    (registry,) = (ROOT / mount["hostPath"]).iterdir()
    (url,) = tomllib.loads((registry / "hosts.toml").read_text())["host"]
    readme = (ROOT / "README.md").read_text()
    name, port = re.fullmatch(r"http://([\w-]+):(\d+)", url).groups()
    assert f"--name {name} --publish 127.0.0.1:{registry.name.partition(':')[2]}:{port} " in readme
    assert f"docker network connect kind {name}" in readme


def test_the_namespace_is_what_the_tests_jobs_have():
    def objects(path, namespace):
        documents = yaml.safe_load_all((ROOT / path).read_text().replace(namespace, "team"))
        return {document["kind"]: document for document in documents}

    ours = objects("images/kind/tenant.yaml", "team")
    tests = objects("tests/cluster/tenant.yaml", "TENANT")
    claim, theirs = ours.pop("PersistentVolumeClaim"), tests["PersistentVolumeClaim"]
    assert claim["metadata"] == theirs["metadata"]
    account = objects("images/deploy/tenant/account.yaml", "beam-jobs")
    assert ours == {"Namespace": tests["Namespace"], **account}


def test_the_command_that_starts_it_runs_what_the_readme_says_and_the_other_takes_it_back():
    readme = (ROOT / "README.md").read_text()
    assert [command for command in UP if command not in readme] == []
    cluster = yaml.safe_load((KIND / "cluster.yaml").read_text())["name"]
    registry = re.search(r"docker run .*--name (\S+)", "\n".join(UP))[1]
    assert (f"kind delete cluster --name {cluster}", f"docker rm --force {registry}") == DOWN
