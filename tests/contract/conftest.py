"""The runners that must all give the same answers. To add one: a name and its flags in RUNNERS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

RUNNERS: dict[str, Callable[[pytest.FixtureRequest], list[str]]] = {
    "direct": lambda _: ["--runner=DirectRunner"],
    "flink": lambda request: [
        "--runner=FlinkK8s",
        "--k8s_target=local",
        f"--flink_master={request.getfixturevalue('session_cluster').address}",
        "--parallelism=2",
        "--sdk_worker_parallelism=1",
        "--checkpointing_interval=1000",
    ],
}
"""Name -> the flags of a pipeline; the request gives access to fixtures, for runners that must be started first."""


@pytest.fixture(params=list(RUNNERS))
def runner_options(request: pytest.FixtureRequest) -> list[str]:
    """Flags that run a pipeline on the runner under test."""
    return RUNNERS[request.param](request)
