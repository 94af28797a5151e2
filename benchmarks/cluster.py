"""The test cluster for one benchmark."""

from __future__ import annotations

import uuid
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from tests.cluster import runtime
from tests.cluster.kafka import KafkaBroker
from tests.cluster.kube import HOST, KubeCluster
from tests.cluster.registry import ImageRegistry
from tests.cluster.submit import Submitter
from tests.conftest import Tenant

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["cluster_user"]


@contextmanager
def cluster_user(folder: Path, properties: Mapping[str, str] | None = None) -> Iterator[tuple[Submitter, KafkaBroker]]:
    """A user of a cluster with its registry, and a broker that pods reach; all of it ends with the block.

    Args:
        folder: where files may lie; empty.
        properties: of the broker.
    """
    name = f"bench-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        cluster = stack.enter_context(KubeCluster())
        registry = stack.enter_context(ImageRegistry(folder / "registry", address=HOST))
        cluster.pull_from(registry.host)
        broker = stack.enter_context(KafkaBroker(folder / "kafka", address=HOST, properties=properties))
        image = str(runtime.push(registry.host, "runtime"))
        tenant = Tenant(name, cluster.tenant(name))
        stack.callback(cluster.remove_tenant, name)
        user = Submitter(cluster, tenant, image, folder)
        stack.callback(user.close)
        yield user, broker
