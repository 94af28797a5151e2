"""Flink itself divides a pod's memory as the plan says, and has no objection."""

import subprocess
from pathlib import Path

import pytest

from beam_k8s.flink_conf import TaskManagerMemory, job_conf, kubernetes_conf
from beam_k8s.launcher.local import _flink_lib
from beam_k8s.settings import Settings
from beam_k8s.spec import worker_size


def jvm_flags(folder: Path, conf: dict[str, str]) -> list[str]:
    """What Flink's start scripts compute, asked the way they ask."""
    # The operator of 1.7 writes this file, and Flink 1.19 still reads it.
    (folder / "flink-conf.yaml").write_text("".join(f"{key}: {value}\n" for key, value in conf.items()))
    lib = _flink_lib()
    jars = [lib.parent / "bin" / "bash-java-utils.jar", *lib.glob("flink-dist-*.jar")]
    result = subprocess.run(
        [
            *("java", "-cp", ":".join(map(str, jars)), "org.apache.flink.runtime.util.bash.BashJavaUtils"),
            *("GET_TM_RESOURCE_PARAMS", "--configDir", str(folder)),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    mark = "BASH_JAVA_UTILS_EXEC_RESULT:"
    return next(line for line in result.stdout.splitlines() if line.startswith(mark)).removeprefix(mark).split()


def pod_conf(machine_type, cpu=None):
    settings = Settings(job_name="flights", streaming=True, machine_type=machine_type)
    _, memory = worker_size(machine_type, cpu)
    pod = TaskManagerMemory.of_pod(memory)
    conf = job_conf(settings, unbounded=settings.streaming) | kubernetes_conf(settings, "s3://bucket/flights", pod)
    return pod, conf | {"taskmanager.memory.process.size": f"{memory}m"}


@pytest.mark.parametrize(
    ("machine_type", "cpu"), [("n1-standard-1", None), ("n1-standard-1", 0.5), ("n1-highmem-16", None)]
)
def test_flink_derives_the_same_jvm_from_a_pods_memory(machine_type, cpu, tmp_path):
    pod, conf = pod_conf(machine_type, cpu)
    sizes = {flag.rstrip("0123456789m"): flag for flag in pod.jvm_flags()}
    for flag in jvm_flags(tmp_path, conf):
        (name,) = (name for name in sizes if flag.startswith(name))
        assert mib(flag.removeprefix(name)) == mib(sizes[name].removeprefix(name))


def test_a_user_may_give_rocksdb_more_and_the_heap_gives_way(tmp_path):
    pod, conf = pod_conf("n1-standard-1")
    flags = jvm_flags(tmp_path, conf | {"taskmanager.memory.managed.size": f"{pod.managed + 256}m"})
    (heap,) = (flag.removeprefix("-Xmx") for flag in flags if flag.startswith("-Xmx"))
    assert mib(heap) == pod.framework_heap + pod.task_heap - 256


def mib(size):
    return int(size[:-1]) if size.endswith("m") else int(size) >> 20
