"""The runtime image as pods run it: restricted, with a read-only root file system; a job of it on the real operator."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pytest
import yaml
from apache_beam.options.pipeline_options import PipelineOptions
from kubernetes import client

from beam_k8s import spec
from beam_k8s.launcher import oci
from beam_k8s.launcher.image import job_environment, job_layers
from beam_k8s.launcher.local import LocalTarget
from beam_k8s.launcher.oci import ImageReference, Registry, Runtime
from beam_k8s.launcher.runner import FlinkK8s, _plan, _with_harness
from beam_k8s.names import WORKER_LINE
from beam_k8s.settings import resolve
from tests.cluster import kube, runtime
from tests.cluster.registry import ImageRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from beam_k8s.launcher.plan import SubmitPlan
    from tests.cluster.kube import KubeCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]  # the first run on a machine builds the image

LOOKS = """
set -e
id -u
java -version 2>&1
python3 - <<'END'
import sys
import apache_beam, beam_k8s
from apache_beam.runners.worker import sdk_worker_main
from beam_k8s.transforms import boot, kafka
print("beam", apache_beam.__version__)
# Compiled already: nothing could be kept here.
print("uncompiled", [m for m, v in sys.modules.items() if m.startswith("beam_k8s") and v.__spec__.cached is None])
END
test -x /opt/beam_k8s/harness
ls /opt/flink/lib /opt/flink/plugins
find / -xdev -name '*.pyc' -path '*/beam_k8s/*' | head -1
touch /tmp/here /opt/flink/log/here
touch /opt/flink/here 2>&1 || true
"""


@pytest.fixture(scope="module")
def registry(kube_cluster: KubeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageRegistry]:
    """A registry from which the cluster pulls."""
    with ImageRegistry(tmp_path_factory.mktemp("registry"), address=kube.HOST) as running:
        kube_cluster.pull_from(running.host)
        yield running


@pytest.fixture(scope="module")
def image(registry: ImageRegistry) -> ImageReference:
    return runtime.push(registry.host, "beam-k8s/runtime")


@pytest.fixture
def tenant(kube_cluster: KubeCluster, unique: str) -> Iterator[str]:
    """A namespace of the test's own."""
    kube_cluster.tenant(unique)
    yield unique
    kube_cluster.remove_tenant(unique)


def pod_spec(image: ImageReference, *command: str) -> dict[str, Any]:
    """As those of jobs are, without the job."""
    template = spec._pod_template({}, "none", (), None)["spec"]
    (container,) = template["containers"]
    container |= {"image": str(image), "command": list(command), "ports": []}
    container["volumeMounts"] = [each for each in container["volumeMounts"] if each["name"] != "options"]
    template["volumes"] = [each for each in template["volumes"] if each["name"] != "options"]
    return {**template, "restartPolicy": "Never"}


def test_a_restricted_pod_of_it_has_all_that_jobs_need_and_can_write_nowhere_else(
    kube_cluster: KubeCluster, image: ImageReference, tenant: str
) -> None:
    core = client.CoreV1Api(kube_cluster.client)
    core.create_namespaced_pod(tenant, {"metadata": {"name": "looks"}, "spec": pod_spec(image, "sh", "-c", LOOKS)})
    ended = {"Succeeded", "Failed"}
    kube_cluster.await_object(
        *("v1", "Pod", "looks"), until=lambda pod: pod["status"]["phase"] in ended, namespace=tenant
    )
    said = core.read_namespaced_pod_log("looks", tenant)
    lines = said.splitlines()
    assert lines[0] == str(spec.FLINK_USER), said
    assert 'openjdk version "17' in said
    assert f"beam {beam.__version__}" in lines, said
    assert "uncompiled []" in lines
    assert {"beam-k8s-runner.jar", "metrics-prometheus", "s3-fs-hadoop"} <= set(lines), said
    assert not [line for line in lines if line.startswith(("flink-table", "flink-cep"))]
    assert ".pyc" in lines[-2]
    assert "Read-only file system" in lines[-1]


class Planned(FlinkK8s):
    """Stops where a pipeline is planned."""

    plan: SubmitPlan

    def run_portable_pipeline(self, pipeline: Any, options: Any) -> Any:
        flags = options.get_all_options(drop_default=True)
        settings = resolve(flags, {}, {}, must_stream=False)
        pipeline = _with_harness(pipeline, f"{spec.IMAGE_DIR}/harness")
        self.plan = _plan(pipeline, settings, options, flags, {})


SPEAK = """
def speak(number):
    import logging, sys, time

    logging.getLogger("mine").warning("logged %d", number)
    print(f"printed {number}")
    print("written", file=sys.stderr)
    time.sleep(3600)
"""


def test_the_operator_runs_a_job_of_it_and_its_python_speaks_through_the_pods_log(
    kube_cluster: KubeCluster, registry: ImageRegistry, image: ImageReference, tenant: str, tmp_path: Path
) -> None:
    flags = ["--job_name=speaks", "--k8s_target=local", "--k8s_storage=file:///flink-data"]
    flags += ["--k8s_flink_conf=env.java.opts.jobmanager=-Dx=y"]
    runner = Planned()
    pipeline = beam.Pipeline(runner=runner, options=PipelineOptions(flags))
    main = {"__name__": "__main__"}  # else it would be looked for in this module, which is not in the image
    exec(SPEAK, main)
    pipeline | beam.Create([42]) | beam.Map(main["speak"])  # type: ignore[operator]
    pipeline.run()
    job_image, options = build_job(runner.plan, registry.host, image, tmp_path)
    manifests = spec.build_deployment(
        runner.plan.settings,
        spec.DeploymentRequest(
            namespace=tenant,
            job_id="0" * 32,
            image=str(job_image),
            flink_conf=runner.plan.flink_conf,
            options=options,
            storage_claim="flink-data",
            cpu=0.5,
        ),
    )
    start = time.monotonic()
    for document in (manifests.options, manifests.deployment.document()):
        kube_cluster.create(yaml.safe_dump(document))
    core = client.CoreV1Api(kube_cluster.client)
    kube_cluster.await_object(
        *("flink.apache.org/v1beta1", "FlinkDeployment", "speaks"),
        until=lambda it: it.get("status", {}).get("jobStatus", {}).get("state") == "RUNNING",
        namespace=tenant,
    )
    print(f"RUNNING after {time.monotonic() - start:.1f} s")
    pods = {pod.metadata.labels["component"]: pod.metadata.name for pod in core.list_namespaced_pod(tenant).items}
    wanted = {"WARNING:mine:logged 42", "printed 42", "written"}
    stream = core.read_namespaced_pod_log(
        pods["taskmanager"], tenant, follow=True, _preload_content=False, _request_timeout=60
    )
    marked = WORKER_LINE.partition("{")[0]
    for line in stream:
        text = line.decode().rstrip("\n")
        if text.startswith(marked):
            wanted.discard(text.partition("] ")[2])
        if not wanted:
            break
    assert not wanted
    job_manager = core.read_namespaced_pod_log(pods["jobmanager"], tenant)
    assert "-Dx=y" in job_manager  # Flink says its JVM's options when it starts
    assert "-Dlog.file=/opt/flink/log/" in job_manager
    kube_cluster.resource("flink.apache.org/v1beta1", "FlinkDeployment").delete(name="speaks", namespace=tenant)
    start = time.monotonic()
    kube_cluster.await_none("v1", "Pod", namespace=tenant)
    print(f"gone after {time.monotonic() - start:.1f} s")


def build_job(plan: SubmitPlan, host: str, base: ImageReference, folder: Path) -> tuple[ImageReference, str]:
    """The job's image, and the options for its Secret."""
    target = LocalTarget(plan.settings.model_copy(update={"run_dir": str(folder / "run")}))
    target.prepare()
    target._fill(plan)
    options = folder / "run" / "job" / "options.json"
    text = options.read_text()
    options.unlink()
    layers = job_layers(target.staged, folder / "run" / "job", folder)
    reference = ImageReference(host, "team/speaks", "latest")
    runtime_of_job = Runtime(environment=job_environment())
    return oci.build(Registry(host, plain_http=True), base, layers, runtime_of_job, reference).reference, text
