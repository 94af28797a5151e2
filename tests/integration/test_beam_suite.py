"""Beam's own test suite of its Flink runner, as it is in the apache-beam wheel, with FlinkK8s as the runner.

Each class below is the one of ``apache_beam.runners.portability.flink_runner_test`` with two changes: the runner,
and the flags that say where to run. All jobs share one session cluster, which starts a job in 2 s; the Python harness
is a process that the TaskManager starts for each job, as on a real cluster. What Beam leaves out for its own Flink
runner is left out here with Beam's reason.
"""

from __future__ import annotations

import re
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions
from apache_beam.runners.portability import flink_runner_test as beams

from beam_k8s import FlinkK8s
from beam_k8s.launcher.local import SessionCluster
from beam_k8s.names import MAX_JOB_NAME
from tests.cluster.expansion import ExpansionService

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def session_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SessionCluster]:
    conf = {
        # As Flink's own mini cluster, which Beam's tests run in: some of their jobs have dozens of shuffles at once.
        "taskmanager.network.sort-shuffle.min-buffers": "16",
        "web.refresh-interval": "250",
    }
    with SessionCluster(tmp_path_factory.mktemp("flink") / "session", workers=1, slots=4, conf=conf) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def expansion_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExpansionService]:
    with ExpansionService(tmp_path_factory.mktemp("expansion")) as service:
        yield service


class _OnFlinkK8s:
    """What differs from Beam's class: before it in the order of bases."""

    @pytest.fixture(autouse=True)
    def parse_options(
        self,
        session_cluster: SessionCluster,
        expansion_service: ExpansionService,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # Takes the place of Beam's fixture of this name, which looks for a job server.
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # Beam leaves folders behind
        self.environment_type = None
        self.environment_options = None
        self.flink_master = session_cluster.address
        self.expansion_service = expansion_service.address

    @classmethod
    def get_runner(cls) -> FlinkK8s:
        return FlinkK8s()

    @classmethod
    def _get_job_endpoint(cls) -> None:
        """There is no job server."""

    def create_options(self) -> Any:
        options = super().create_options()
        name = re.sub(r"[^a-z0-9]+", "-", self._testMethodName)
        options.view_as(GoogleCloudOptions).job_name = name[:MAX_JOB_NAME].rstrip("-")
        options._all_options |= {
            "k8s_target": "local",
            "flink_master": self.flink_master,
            "sdk_worker_parallelism": 1,
            # As upstream: no checkpoints, but in the tests that ask for them.
            "checkpointing_interval": options._all_options.get("checkpointing_interval", -1),
            # Beam's tests fail once and look at the reason.
            "k8s_flink_conf": ["restart-strategy.type=none"],
        }
        return options

    def get_expansion_service(self) -> str:
        return self.expansion_service

    # The worker's threads in this process say so when the runner hangs up at the job's end.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_batch_rebatch_pardos(self) -> None:
        # It looks for a warning of the worker, which a worker in another process cannot give.
        self.environment_type = "LOOPBACK"
        super().test_batch_rebatch_pardos()


@pytest.mark.slow  # the same as the streaming one below, but for the translator
class TestBatch(_OnFlinkK8s, beams.FlinkRunnerTest):
    pass


@pytest.mark.slow  # the same again, after an optimizer that only an experiment of Beam turns on
class TestBatchOptimized(_OnFlinkK8s, beams.FlinkRunnerTestOptimized):
    pass


class TestStreaming(_OnFlinkK8s, beams.FlinkRunnerTestStreaming):
    pass
