"""Wrong input ends in one clear error that names option, value and way out, before anything is created."""

import os
import shutil
import socket
import subprocess
import sys
import textwrap

import pytest
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType

from tests.cluster.kafka import KafkaBroker
from tests.cluster.launch import ROOT, Launch

READ = """
    import sys
    import apache_beam as beam
    from beam_k8s import ReadFromKafka

    if __name__ == "__main__":
        broker, topics = sys.argv[1], sys.argv[2].split(",")
        with beam.Pipeline(argv=sys.argv[3:]) as p:
            p | ReadFromKafka({"bootstrap.servers": broker, "group.id": "g"}, topics) | beam.Map(print)
"""
COPY = """
    import sys
    import apache_beam as beam
    from beam_k8s import ReadFromKafka, WriteToKafka

    if __name__ == "__main__":
        broker, topics, sinks = sys.argv[1], sys.argv[2].split(","), sys.argv[3].split(",")
        with beam.Pipeline(argv=sys.argv[4:]) as p:
            records = p | ReadFromKafka({"bootstrap.servers": broker, "group.id": "g"}, topics)
            for sink in sinks:
                records | sink >> WriteToKafka({"bootstrap.servers": broker}, sink, delivery_guarantee="exactly_once")
"""
CREATE = """
    import sys
    import apache_beam as beam
    import beam_k8s

    if __name__ == "__main__":
        with beam.Pipeline(argv=sys.argv) as p:
            p | beam.Create([1]) | beam.Map(print)
"""
FLAGS = ("--runner=FlinkK8s", "--k8s_target=local")


@pytest.fixture
def refused(tmp_path):
    """Runs a script that must fail; gives what it printed, after checking that it left nothing."""

    def run(source, *arguments, **environment):
        script = tmp_path / "my_pipeline.py"
        script.write_text(textwrap.dedent(source))
        launch = Launch(script, arguments, tmp_path, environment)
        try:
            assert launch.wait() not in {0, -9}, launch.output
            assert "starts; logs in" not in launch.output
            assert not launch.processes()
            assert not launch.run_dirs
            left = {path.name for path in tmp_path.iterdir()} - {"my_pipeline.py", "state", "jdk", "small", "full"}
            assert not left
        finally:
            launch.kill_all()
        return launch.output

    return run


def test_broker_unreachable(refused):
    output = refused(READ, "127.0.0.1:1", "flights", *FLAGS)
    assert "no Kafka broker at bootstrap.servers=127.0.0.1:1 answers" in output


def test_all_missing_topics_are_named(refused, broker):
    output = refused(READ, broker.bootstrap_servers, "nosuch1,nosuch2", *FLAGS)
    assert "topic nosuch1 does not exist" in output
    assert "topic nosuch2 does not exist" in output


def test_what_the_broker_would_not_allow_is_told_at_once(refused, tmp_path_factory):
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        "transaction.max.timeout.ms": "600000",
    }
    with KafkaBroker(tmp_path_factory.mktemp("broker"), properties=properties) as broker:
        broker.create_topics({"salaries": 1, "hidden": 1, "sealed": 1})
        with broker.admin() as admin:
            admin.create_acls(
                [
                    ACL(
                        principal="User:ANONYMOUS",
                        host="*",
                        operation=operation,
                        permission_type=permission,
                        resource_pattern=ResourcePattern(resource, name, ACLResourcePatternType.PREFIXED),
                    )
                    for resource, name, operation, permission in (
                        (ResourceType.TOPIC, "salaries", ACLOperation.DESCRIBE, ACLPermissionType.ALLOW),
                        (ResourceType.TOPIC, "hidden", ACLOperation.ALL, ACLPermissionType.DENY),
                        (ResourceType.TOPIC, "sealed", ACLOperation.READ, ACLPermissionType.ALLOW),
                        (ResourceType.TRANSACTIONAL_ID, "copy/sealed", ACLOperation.WRITE, ACLPermissionType.DENY),
                    )
                ]
            )
        output = refused(COPY, broker.bootstrap_servers, "salaries,hidden", "sealed,nosuch", "--job_name=copy", *FLAGS)
    assert "no permission to read topic salaries" in output
    assert "no permission to read topic hidden" in output
    assert "no permission to write topic sealed" in output
    assert output.count("no permission for transactional ids that begin with copy/sealed/Sink") == 1
    assert "begin with copy/nosuch" not in output
    assert "topic nosuch does not exist" in output
    assert "transaction.timeout.ms=900000" in output
    assert "transaction.max.timeout.ms=600000" in output


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--k8s_target=mars", "--k8s_target=mars is refused"),
        ("--k8s_dry_run=maybe", "--k8s_dry_run=maybe is refused"),
        ("--job_name=Not_DNS", "--job_name=Not_DNS cannot name a job"),
        ("--flink_version=1.17", "--flink_version=1.17 is not supported"),
        ("--num_workers=0", "--num_workers=0 is refused"),
        ("--max_bundle_size=lots", "--max_bundle_size=lots is refused"),
        ("--savepoint_path=/nonexistent", "--savepoint_path=/nonexistent holds no completed checkpoint"),
        ("--k8s_run_dir=/proc/run", "/proc"),
        ("--flink_master=127.0.0.1:1", "--flink_master=127.0.0.1:1: no Flink answers"),
        ("--flink_master=10.0.0.1:8081", "is not on this machine"),
        ("--k8s_flink_conf=taskmanager.memory.process.size=10m", "--k8s_flink_conf=taskmanager.memory...: "),
        ("--k8s_flink_conf=jobmanager.archive.fs.dir=file:///tmp/a", "--k8s_flink_conf=jobmanager.archive.fs.dir="),
        ("--requirements_file=/nonexistent.txt", "/nonexistent.txt"),
        ("--experiments=data_buffer_time_limit_ms=9", "--experiments=data_buffer_time_limit_ms=9 is refused"),
    ],
)
def test_a_wrong_flag_is_named_with_its_value(refused, flag, says):
    assert says in refused(CREATE, *FLAGS, flag)


def test_wrong_flag_file_and_broker_are_told_at_once(refused, tmp_path):
    output = refused(
        READ, "127.0.0.1:1", "flights", *FLAGS, "--flink_master=127.0.0.1:1", JAVA_HOME=str(tmp_path / "none")
    )
    for part in ("settings are wrong", "JDK missing", "no Kafka broker", "no Flink"):
        assert part in output


def test_exactly_once_without_checkpoints_is_told_with_the_rest(refused):
    source = READ.replace("import ReadFromKafka", "import ReadFromKafka, WriteToKafka").replace(
        "beam.Map(print)", 'WriteToKafka({"bootstrap.servers": broker}, "out", delivery_guarantee="exactly_once")'
    )
    output = refused(source, "127.0.0.1:1", "flights", *FLAGS, "--checkpointing_interval=-1")
    for part in ("2 settings are wrong", "--checkpointing_interval=-1: WriteToKafka/Sink", "no Kafka broker"):
        assert part in output


def test_port_taken(refused):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        output = refused(CREATE, *FLAGS, f"--k8s_flink_conf=rest.port={port}")
    assert f"--k8s_flink_conf=rest.port={port}: the port is taken" in output


def test_jdk_missing(refused, tmp_path):
    output = refused(CREATE, *FLAGS, JAVA_HOME=str(tmp_path / "none"))
    assert "JDK missing" in output
    assert "openjdk-17" in output


def test_jdk_too_old(refused, tmp_path):
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    output = refused(CREATE, *FLAGS, JAVA_HOME=str(tmp_path / "jdk"))
    assert "is Java 11, this release needs 17" in output


def test_disk_full(tmp_path):
    """On a file system of 1 MiB that only this test sees (a mount namespace)."""
    (tmp_path / "full").mkdir()
    script = tmp_path / "my_pipeline.py"
    script.write_text(textwrap.dedent(CREATE))
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    run_dir = tmp_path / "full" / "run"
    command = (
        f"mount -t tmpfs -o size=1m tmpfs {tmp_path}/full && "
        f"{sys.executable} {script} {' '.join(FLAGS)} --k8s_run_dir={run_dir}; "
        f"code=$?; ls -A {tmp_path}/full; exit $code"
    )
    done = subprocess.run([*unshare, "sh", "-c", command], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert f"--k8s_run_dir={run_dir}: the disk is full" in done.stderr
    assert not done.stdout.strip()


def test_a_dofn_that_cannot_be_pickled(refused):
    source = CREATE.replace("beam.Map(print)", '"Count" >> beam.Map(lambda x, y=(i for i in [1]): x)')
    output = refused(source, *FLAGS)  # Beam itself refuses, where the step is made: the user sees his own line
    assert 'p | beam.Create([1]) | "Count" >> beam.Map(' in output
    assert "can't (safely) pickle generator objects" in output


def test_two_sources_with_one_label(refused):
    source = READ.replace(
        "p | ReadFromKafka",
        'p | "Read" >> ReadFromKafka({"bootstrap.servers": broker}, topics)\n            p | "Read" >> ReadFromKafka',
    )
    output = refused(source, "127.0.0.1:1", "flights", *FLAGS)
    assert 'A transform with label "Read" already exists in the pipeline' in output


def test_without_the_import_beam_says_that_it_does_not_know_the_runner(refused):
    assert "Unexpected pipeline runner: FlinkK8s" in refused(CREATE.replace("import beam_k8s", ""), *FLAGS)


def test_make_says_that_a_jdk_or_maven_is_missing(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("sh", "make", "sed", "find", "cat"):
        (tools / tool).symlink_to(shutil.which(tool))
    for environment, says in (
        ({"PATH": str(tools)}, "a JDK of version 17 or newer is needed"),
        ({"PATH": f"{tools}", "JAVA_HOME": str(java_home())}, "Maven is missing"),
    ):
        done = subprocess.run(
            ["make", "check", f"PYTHON={sys.executable}"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert says in done.stderr


def java_home():
    return os.environ.get("JAVA_HOME") or os.path.realpath(shutil.which("javac")).removesuffix("/bin/javac")
