"""The runners that must all give the same answers. To add one: a name and its flags in RUNNERS, and a param."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

RUNNERS: dict[str, Callable[[pytest.FixtureRequest], list[str]]] = {
    "direct": lambda _: ["--runner=DirectRunner"],
    "prism": lambda request: ["--runner=PrismRunner", f"--job_endpoint={request.getfixturevalue('prism').address}"],
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


# Prism's answers take as long again: make soak asks for them.
@pytest.fixture(params=["direct", "flink", pytest.param("prism", marks=pytest.mark.slow)])
def runner_options(request: pytest.FixtureRequest) -> list[str]:
    """Flags that run a pipeline on the runner under test."""
    return RUNNERS[request.param](request)


@pytest.fixture
def failures_are_told(runner_options: list[str]) -> None:
    """For tests of failing pipelines: skips the runners that may call them DONE."""
    if "--runner=PrismRunner" in runner_options:
        # Create | Map(sleep 0.2 to 0.6 s, then raise) was DONE 5 times of 47; Beam's pull request 35337 cured it.
        pytest.skip("Prism 2.62 forgets a bundle's failure that a request for its progress or a split has crossed")
