"""Flink's configuration for a job: our defaults, each with its reason, under the user's own settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from beam_k8s.settings import Settings

__all__ = ["TaskManagerMemory", "java_options", "job_conf", "reactive_conf"]

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class TaskManagerMemory:
    """Memory of one TaskManager's JVM in MiB, every component given: Flink then derives nothing, so the JVM can be
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
            "taskmanager.memory.jvm-overhead.min": f"{self.overhead}m",
            "taskmanager.memory.jvm-overhead.max": f"{self.overhead}m",
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


def job_conf(settings: Settings) -> dict[str, str]:
    """The Flink settings of one job on any target; addresses, ports and folders are the target's to add."""
    conf = {
        "taskmanager.numberOfTaskSlots": str(settings.slots),
        "parallelism.default": str(settings.workers * settings.slots),
        # A source is capped at its partitions: without this, a step chained to it would be capped with it.
        "pipeline.operator-chaining.chain-operators-with-different-max-parallelism": "false",
        # A job that was killed starts again at once, and waits longer each time it fails soon after.
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "500 ms",
        "restart-strategy.exponential-delay.max-backoff": "30 s",
        "restart-strategy.exponential-delay.backoff-multiplier": "2.0",
        "restart-strategy.exponential-delay.reset-backoff-threshold": "5 min",
        # A lost TaskManager is noticed in seconds, not in Flink's 50 s.
        "heartbeat.interval": "2000",
        "heartbeat.timeout": "10000",
        "heartbeat.rpc-failure-threshold": "1",
        # A failing job shows how it failed, more than once.
        "web.exception-history-size": "16",
    }
    if settings.streaming:
        conf |= {
            # Python failures repeat: give up after some tries so that the user sees the traceback.
            "restart-strategy.exponential-delay.attempts-before-reset-backoff": "10",
            "execution.checkpointing.timeout": f"{settings.checkpoint_timeout_millis} ms",
            "execution.checkpointing.mode": "EXACTLY_ONCE",
            "execution.checkpointing.max-concurrent-checkpoints": "1",
            "execution.checkpointing.tolerable-failed-checkpoints": "10",
            # Barriers overtake data in flight: a slow Python step does not delay checkpoints.
            "execution.checkpointing.unaligned.enabled": "true",
            # A cancelled job can be started again where it stopped.
            "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
            # State below 1 MB rides in the checkpoint's metadata: few files instead of one a subtask.
            "state.storage.fs.memory-threshold": "1mb",
            "state.backend.type": "hashmap",
        }
        if settings.checkpointing_interval > 0:
            conf["execution.checkpointing.interval"] = f"{settings.checkpointing_interval} ms"
    else:
        conf |= {"restart-strategy.type": "none"}
    return conf


def reactive_conf() -> dict[str, str]:
    """An application cluster that always uses all TaskManagers it has; scaling is adding and removing them."""
    return {
        "scheduler-mode": "reactive",
        "jobmanager.scheduler": "adaptive",
        # How long to wait for more slots once there are enough to run: pods and processes that start together.
        "jobmanager.adaptive-scheduler.resource-stabilization-timeout": "1 s",
        "jobmanager.adaptive-scheduler.resource-wait-timeout": "5 min",
        "jobmanager.adaptive-scheduler.scaling-interval.min": "1 s",
    }
