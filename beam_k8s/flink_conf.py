"""Flink's configuration for a job: our defaults, each with its reason, under the user's own settings."""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from beam_k8s.settings import Settings

__all__ = [
    "PROMETHEUS",
    "PROMETHEUS_PORT",
    "TaskManagerMemory",
    "cluster_conf",
    "is_secret",
    "java_options",
    "job_conf",
    "kubernetes_conf",
    "operators_autoscaler",
    "reactive_conf",
]

MIB = 1 << 20
JAVA_OPTIONS = "env.java.opts.all"
PROMETHEUS_PORT = 9249
"""Flink's own default port of the reporter."""
PROMETHEUS = {
    "metrics.reporter.prom.factory.class": "org.apache.flink.metrics.prometheus.PrometheusReporterFactory",
    "metrics.reporter.prom.port": str(PROMETHEUS_PORT),
    # Names of topics and jobs stay as they are; else Flink makes _ of each character that no identifier has.
    "metrics.reporter.prom.filterLabelValueCharacters": "false",
}
"""Metrics as Prometheus scrapes them."""
_SECRET = re.compile(
    r"(?!kubernetes\.|security\.delegation\.).*(password|secret|access[.-]key|fs\.azure\.account\.key|apikey"
    r"|auth-params|service-key|token|basic-auth|jaas\.config|http-headers)",
    re.IGNORECASE,
)


SAVEPOINT_ON_DELETION = "kubernetes.operator.job.savepoint-on-deletion"
_AUTOSCALER_KEYS = ("job.autoscaler.enabled", "kubernetes.operator.job.autoscaler.enabled")
"""Of the operator's own autoscaler, new and old; it reads the old one where there is no new one."""


def is_secret(key: str) -> bool:
    """Whether a Flink setting holds a secret.

    Flink's own list of settings whose values it hides (GlobalConfiguration.SENSITIVE_KEYS), and access keys. Settings
    of the two prefixes name secrets, they hold none.
    """
    return _SECRET.match(key) is not None


def operators_autoscaler(conf: Mapping[str, object]) -> str:
    """The setting of a job by which the operator's own autoscaler is on; empty: it is not."""
    key = next((key for key in _AUTOSCALER_KEYS if key in conf), "")
    return key if str(conf.get(key)).lower() == "true" else ""


@dataclass(frozen=True, slots=True)
class TaskManagerMemory:
    """Memory of one TaskManager in MiB, every component given: Flink then derives nothing, so the JVM can be
    started without asking Flink's start scripts first (a second JVM, half a second a start).

    Source of the components: Flink documentation, "Set up TaskManager Memory".
    """

    framework_heap: int = 128
    task_heap: int = 512
    framework_off_heap: int = 128
    task_off_heap: int = 128
    """Direct memory of tasks: gRPC's buffers to the Python harness."""
    network: int = 128
    managed: int = 256
    """Sort buffers of batch jobs; RocksDB where it is chosen."""
    metaspace: int = 256
    overhead: int = 192
    """Of the JVM: threads' stacks, code. 192 is Flink's own minimum."""
    python: int = 0
    """Python harnesses of the same container; 0 where the container's limit does not count them (local)."""

    @classmethod
    def of_pod(cls, total: int) -> Self:
        """Divide the memory of a pod, in MiB, at least 2048.

        Half is Python's. The JVM's half gives its small parts a 16th each, and the heap what remains (a hashmap state
        backend keeps state there). Metaspace: a job used 80 MB over any number of rescales, with the jar in lib/.
        """
        jvm = total - total // 2
        part = jvm // 16
        parts = cls(
            task_heap=0,
            task_off_heap=part,
            network=part,
            managed=part,
            metaspace=192,
            overhead=max(192, jvm // 10),
            python=total // 2,
        )
        return replace(parts, task_heap=total - parts.total)

    @property
    def total(self) -> int:
        """MiB of the process, or of the pod."""
        return sum(astuple(self))

    def conf(self) -> dict[str, str]:
        """The Flink settings that say so."""
        return {
            "taskmanager.memory.framework.heap.size": f"{self.framework_heap}m",
            "taskmanager.memory.task.heap.size": f"{self.task_heap}m",
            "taskmanager.memory.framework.off-heap.size": f"{self.framework_off_heap}m",
            "taskmanager.memory.task.off-heap.size": f"{self.task_off_heap}m",
            "taskmanager.memory.network.min": f"{self.network}m",
            "taskmanager.memory.network.max": f"{self.network}m",
            "taskmanager.memory.managed.size": f"{self.managed}m",
            "taskmanager.memory.jvm-metaspace.size": f"{self.metaspace}m",
            # Flink never allocates its overhead: what stands here is kept free for Python.
            "taskmanager.memory.jvm-overhead.min": f"{self.overhead + self.python}m",
            "taskmanager.memory.jvm-overhead.max": f"{self.overhead + self.python}m",
        }

    def jvm_flags(self) -> list[str]:
        """The same as flags of the JVM, as Flink's own scripts compute them."""
        heap = self.framework_heap + self.task_heap
        direct = self.framework_off_heap + self.task_off_heap + self.network
        return [
            f"-Xmx{heap}m",
            f"-Xms{heap}m",
            f"-XX:MaxDirectMemorySize={direct}m",
            f"-XX:MaxMetaspaceSize={self.metaspace}m",
        ]


def java_options() -> list[str]:
    """Flags that let Flink 1.19 and Beam reflect into Java 17, as in Flink's own default configuration."""
    exports = ("java.base/sun.net.util", "java.rmi/sun.rmi.registry", "java.security.jgss/sun.security.krb5")
    opens = (
        "java.base/java.lang",
        "java.base/java.lang.invoke",
        "java.base/java.lang.reflect",
        "java.base/java.io",
        "java.base/java.net",
        "java.base/java.nio",
        "java.base/java.math",
        "java.base/java.text",
        "java.base/java.time",
        "java.base/java.util",
        "java.base/java.util.concurrent",
        "java.base/java.util.concurrent.atomic",
        "java.base/java.util.concurrent.locks",
        "java.base/sun.nio.ch",
    )
    return [f"--add-exports={package}=ALL-UNNAMED" for package in exports] + [
        f"--add-opens={package}=ALL-UNNAMED" for package in opens
    ]


def job_conf(settings: Settings, *, unbounded: bool) -> dict[str, str]:
    """The Flink settings of one job on any target; addresses, ports and folders are the target's to add.

    Args:
        settings: what the user asked for.
        unbounded: whether the pipeline reads for ever (``graph.is_unbounded``).
    """
    conf = {
        "taskmanager.numberOfTaskSlots": str(settings.slots),
        "parallelism.default": str(settings.workers * settings.slots),
        # A source is capped at its partitions: without this, a step chained to it would be capped with it.
        "pipeline.operator-chaining.chain-operators-with-different-max-parallelism": "false",
        # A lost TaskManager is noticed in seconds, not in Flink's 50 s.
        "heartbeat.interval": "2000",
        "heartbeat.timeout": "10000",
        "heartbeat.rpc-failure-threshold": "1",
        # A failing job shows how it failed, more than once.
        "web.exception-history-size": "16",
    }
    if settings.streaming:
        conf |= {
            # A job that failed starts again at once, and waits longer each time it fails within a minute, in which it
            # should have taken some checkpoints.
            "restart-strategy.type": "exponential-delay",
            "restart-strategy.exponential-delay.initial-backoff": "500 ms",
            "restart-strategy.exponential-delay.max-backoff": "30 s",
            "restart-strategy.exponential-delay.backoff-multiplier": "2.0",
            "restart-strategy.exponential-delay.reset-backoff-threshold": "1 min",
            "execution.checkpointing.timeout": f"{settings.checkpoint_timeout_millis} ms",
            "execution.checkpointing.mode": "EXACTLY_ONCE",
            "execution.checkpointing.max-concurrent-checkpoints": "1",
            "execution.checkpointing.tolerable-failed-checkpoints": "10",
            # Barriers overtake data in flight, but not that of one-to-one connections: a slow Python step behind a
            # shuffle does not delay checkpoints.
            "execution.checkpointing.unaligned.enabled": "true",
            # A cancelled job can be started again where it stopped.
            "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
            # State below 1 MB rides in the checkpoint's metadata: few files instead of one a subtask.
            "state.storage.fs.memory-threshold": "1mb",
            "state.backend.type": "hashmap",
        }
        if not unbounded:
            # Somebody waits for its end. A job that reads for ever never gives up, as on Dataflow: a night of drained
            # nodes must not end it, and each failure is reported.
            conf["restart-strategy.exponential-delay.attempts-before-reset-backoff"] = "10"
        if settings.checkpointing_interval > 0:
            conf["execution.checkpointing.interval"] = f"{settings.checkpointing_interval} ms"
    else:
        # A lost worker does not end a batch job. Dataflow's four tries.
        conf |= {
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": "3",
            "restart-strategy.fixed-delay.delay": "500 ms",
        }
    return conf


def cluster_conf() -> dict[str, str]:
    """What every cluster of ours has, whichever jobs it runs."""
    return {
        # A failed main becomes a FAILED job that can be asked for its exception.
        "execution.submit-failed-job-on-application-error": "true",
        # gRPC's threads outlive a job and keep its class loader (empty: our classes are in Flink's lib). Asking
        # it for a service after the job's end must not fail; Beam's own clusters allow it too.
        "classloader.check-leaked-classloader": "false",
    }


def kubernetes_conf(settings: Settings, folder: str, memory: TaskManagerMemory) -> dict[str, str]:
    """What ``job_conf`` leaves to the target, for pods that the operator starts.

    The operator itself sets addresses, ports, names, the job's id and, from ``resource.memory``, the process sizes.

    Args:
        settings: what the user asked for.
        folder: URL of the job's own folder, which no other job of any namespace has.
        memory: of a TaskManager's pod.
    """
    # Flink derives the heap from the pod's memory: a user who changes another part changes the heap with it.
    parts = {key: value for key, value in memory.conf().items() if key != "taskmanager.memory.task.heap.size"}
    conf = cluster_conf() | parts
    conf |= {
        # A new JobManager takes the job over from its last checkpoint; upgrades without a savepoint need it too.
        "high-availability.type": "kubernetes",
        "high-availability.storageDir": f"{folder}/ha",
        "state.checkpoints.dir": f"{folder}/checkpoints",
        "state.savepoints.dir": f"{folder}/savepoints",
        # Flink's default configuration has them, but the operator mounts one of its own over it.
        JAVA_OPTIONS: " ".join(java_options()),
        **PROMETHEUS,
        # The pods of a job that has ended idle until then (the operator's default: a day). It is what a launcher needs
        # to read the last metrics and errors; the FlinkDeployment stays.
        "kubernetes.operator.jm-deployment.shutdown-ttl": "2 min",
    }
    if settings.autoscaler_mode != "off":
        conf[_AUTOSCALER_KEYS[0]] = "false"  # whatever the operator's defaults are: two would fight
    if settings.streaming:
        # No resource-wait-timeout: a reactive job then waits for its first pod as long as the cluster needs for a node.
        conf |= reactive_conf(resource_wait=None)
        # A deleted job can be started again where it stopped. The operator deletes it only once the savepoint is taken,
        # so one that cannot run must be told otherwise first.
        conf[SAVEPOINT_ON_DELETION] = "true"
    return conf


def reactive_conf(resource_wait: str | None = "5 min") -> dict[str, str]:
    """An application cluster that always uses all TaskManagers it has; scaling is adding and removing them.

    Args:
        resource_wait: how long to wait for the first slots before the job fails; None: for ever.
    """
    conf = {
        "scheduler-mode": "reactive",
        "jobmanager.scheduler": "adaptive",
        # How long to wait for more slots once there are enough to run: pods and processes that start together.
        "jobmanager.adaptive-scheduler.resource-stabilization-timeout": "1 s",
        "jobmanager.adaptive-scheduler.scaling-interval.min": "1 s",
        # Little waits between source and steps, which are no chain here: barriers do not overtake it, and the
        # autoscaler takes it for done. Flink's 32 KB and 8 of them held 30,000 small records, minutes of a slow step.
        "taskmanager.memory.segment-size": "4kb",
        "taskmanager.network.memory.floating-buffers-per-gate": "1",
        "taskmanager.network.memory.buffer-debloat.enabled": "true",
    }
    if resource_wait is not None:
        conf["jobmanager.adaptive-scheduler.resource-wait-timeout"] = resource_wait
    return conf


_LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.file.ref = File
appender.file.name = File
appender.file.type = RollingFile
appender.file.fileName = ${sys:log.file}
appender.file.filePattern = ${sys:log.file}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %-60c %x - %m%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 100MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 3
logger.kafka.name = org.apache.kafka
logger.kafka.level = WARN
logger.pekko.name = org.apache.pekko
logger.pekko.level = WARN
"""
_LOG4J_CONSOLE = """\
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %-60c %x - %m%n
# What Python workers log; they write it to the same output themselves, with their prints and last words.
logger.workers.name = RemoteLog
logger.workers.level = OFF
"""


def log4j_properties(*, console: bool = False) -> str:
    """How Flink's processes log: to a file that Flink's REST endpoint can show, and to a container's output.

    Args:
        console: to the output, too.
    """
    return _LOG4J + _LOG4J_CONSOLE if console else _LOG4J
