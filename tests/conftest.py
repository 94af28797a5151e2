"""Fixtures of the real parts: started once a session (once a worker of pytest-xdist), stopped when it ends."""

from __future__ import annotations

import gc
import os
import signal
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from beam_k8s.launcher.local import SessionCluster
    from tests.cluster.kafka import KafkaBroker
    from tests.cluster.kube import KubeCluster
    from tests.cluster.prism import Prism
    from tests.cluster.registry import ImageRegistry


# A shell's background job ignores Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The machines that run this are shared: how long an example takes says nothing.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


@pytest.fixture(autouse=True)
def _no_warning_of_another_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test with filters of its own leaves behind is collected under them, and not in some later test."""
    yield
    if request.node.get_closest_marker("filterwarnings"):
        gc.collect()


class TopicFactory(Protocol):
    def __call__(
        self,
        partitions: int = 1,
        *,
        label: str = "topic",
        config: Mapping[str, str] | None = None,
    ) -> str:
        """Create a topic with a name that no other test has; return the name."""


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A running broker. Share it: name topics with ``topic`` and groups with ``unique``."""
    from tests.cluster.kafka import KafkaBroker

    with KafkaBroker(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture
def topic(broker: KafkaBroker) -> TopicFactory:
    def create(
        partitions: int = 1,
        *,
        label: str = "topic",
        config: Mapping[str, str] | None = None,
    ) -> str:
        name = f"{label}-{uuid.uuid4().hex[:12]}"
        broker.create_topics({name: partitions}, config=config)
        return name

    return create


@pytest.fixture
def unique() -> str:
    """A name that no other test has: for groups, jobs, prefixes."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def session_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SessionCluster]:
    """A running Flink session cluster: a job in it starts in seconds. Its own run directories go with the session."""
    from beam_k8s.launcher.local import SessionCluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        with SessionCluster(tmp_path_factory.mktemp("flink"), slots=8) as running:
            yield running


@pytest.fixture(scope="session")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prism]:
    """A running Prism: Beam's own local runner for portable pipelines, in Go."""
    from tests.cluster.prism import Prism

    with Prism(tmp_path_factory.mktemp("prism")) as running:
        yield running


@pytest.fixture(scope="session")
def kube_cluster() -> Iterator[KubeCluster]:
    """A running Kubernetes with Flink's operator: that of KUBECONFIG if BEAM_K8S_TEST_CLUSTER=given, else one of our
    own. Share it: name namespaces with ``unique``.
    """
    from tests.cluster.kube import KubeCluster

    given = os.environ.get("BEAM_K8S_TEST_CLUSTER") == "given"
    with KubeCluster(kubeconfig=Path(os.environ["KUBECONFIG"]) if given else None) as running:
        yield running


class Tenant(NamedTuple):
    """A namespace for jobs, of a test's own."""

    name: str
    volume: Path
    """This machine's folder behind the claim ``flink-data``."""


@pytest.fixture
def tenant(kube_cluster: KubeCluster, unique: str) -> Iterator[Tenant]:
    """A namespace that goes with the test, and with it all that is in it."""
    yield Tenant(unique, kube_cluster.tenant(unique))
    kube_cluster.remove_tenant(unique)


@pytest.fixture(scope="session")
def pod_broker(kube_cluster: KubeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A running broker that pods reach as this machine does."""
    from tests.cluster.kafka import KafkaBroker
    from tests.cluster.kube import HOST

    with KafkaBroker(tmp_path_factory.mktemp("pod-kafka"), address=HOST) as running:
        yield running


@pytest.fixture(scope="session")
def pod_registry(kube_cluster: KubeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageRegistry]:
    """A running registry from which the node pulls."""
    from tests.cluster.kube import HOST
    from tests.cluster.registry import ImageRegistry

    with ImageRegistry(tmp_path_factory.mktemp("registry"), address=HOST) as running:
        kube_cluster.pull_from(running.host)
        yield running


@pytest.fixture(scope="session")
def runtime_image(pod_registry: ImageRegistry) -> str:
    """The runtime image's name in that registry."""
    from tests.cluster import runtime

    return str(runtime.push(pod_registry.host, "runtime"))
