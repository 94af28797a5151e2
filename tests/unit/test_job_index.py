"""The index of cached jobs against a dictionary, whatever order events come in, and the cache's watch, whatever
ends it.
"""

from __future__ import annotations

import queue
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_k8s import names
from beam_k8s.errors import NotFound
from beam_k8s.launcher import cache
from beam_k8s.launcher.cache import JobCache, JobIndex
from tests.waiting import await_that

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMESPACES, NAMES, IDS = ("a", "b"), ("x", "y"), ("id0", "id1", "id2")


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[tuple[str, dict[str, Any]]], dict[tuple[str, str], dict[str, Any]]]:
    """What happened to some jobs, as the server tells it, and what is there in the end."""
    events: list[tuple[str, dict[str, Any]]] = []
    there: dict[tuple[str, str], dict[str, Any]] = {}
    for version in range(1, draw(st.integers(1, 20))):
        key = (draw(st.sampled_from(NAMESPACES)), draw(st.sampled_from(NAMES)))
        before = there.get(key)
        if before is not None and draw(st.booleans()):
            metadata = before["metadata"] | {"resourceVersion": str(version)}
            events.append(("DELETED", {"metadata": metadata}))
            del there[key]
            continue
        metadata = {
            "namespace": key[0],
            "name": key[1],
            "uid": before["metadata"]["uid"] if before else f"uid{version}",
            "resourceVersion": str(version),
            "annotations": draw(st.sampled_from([{}, {names.AUTOSCALER_ANNOTATION: f"memory {version}"}])),
            "labels": {**names.JOB_SELECTOR, names.JOB_ID_LABEL: draw(st.sampled_from(IDS))},
        }
        there[key] = {"metadata": metadata}
        events.append(("MODIFIED" if before else "ADDED", there[key]))
    return events, there


@given(histories(), st.randoms(use_true_random=False))
def test_the_newest_of_each_object_counts_in_any_order_and_however_often(history: Any, random: Any) -> None:
    events, there = history
    shuffled = [*events, *random.sample(events, len(events) // 2)]
    random.shuffle(shuffled)
    index = JobIndex()
    came: dict[str, int] = {}
    for now, (what, deployment) in enumerate(shuffled):
        index.apply(what, deployment, now)
        if what != "DELETED":
            came.setdefault(deployment["metadata"]["resourceVersion"], now)
    for namespace in ("", *NAMESPACES):
        wanted = {key: each["metadata"] for key, each in there.items() if namespace in {"", key[0]}}
        kept = {(entry.status.namespace, entry.status.name): entry for entry in index.all(namespace)}
        assert kept.keys() == wanted.keys()
        assert all(kept[key].status.version == wanted[key]["resourceVersion"] for key in wanted)
        assert all(kept[key].since == came[wanted[key]["resourceVersion"]] for key in wanted)
        notes = {key: each["annotations"].get(names.AUTOSCALER_ANNOTATION) for key, each in wanted.items()}
        assert all(kept[key].status.memory == notes[key] for key in wanted)
        assert all(kept[key].labels == wanted[key]["labels"] for key in wanted)
        for job_id in IDS:
            having = [key for key, each in wanted.items() if each["labels"][names.JOB_ID_LABEL] == job_id]
            found = index.by_id(namespace, job_id)
            assert (found is None) == (not having)
            assert found is None or (found.status.namespace, found.status.name) in having
    for key in [(namespace, name) for namespace in NAMESPACES for name in NAMES]:
        assert (index.by_name(*key) is None) == (key not in there)


class Server:
    """Tells what a test puts in, as ``Kube.follow`` does; an exception ends the watch."""

    def __init__(self, *events: Any) -> None:
        self.events: queue.Queue[Any] = queue.Queue()
        for event in events:
            self.events.put(event)

    def follow(self, *_: Any, cut: Any, **__: Any) -> Iterator[Any]:
        while not cut.done:
            try:
                event = self.events.get(timeout=0.02)
            except queue.Empty:
                continue
            if isinstance(event, Exception):
                raise event
            yield event


def job(name: str, version: int = 1, **conf: str) -> tuple[str, dict[str, Any]]:
    metadata = {"namespace": "a", "name": name, "uid": name, "resourceVersion": str(version)}
    return "ADDED", {"metadata": metadata, "spec": {"flinkConfiguration": conf}}


OPEN = ("OPEN", {})


def slots(known: JobCache) -> dict[str, tuple[str, int]]:
    return {each.name: (each.state, each.slots) for each in known.all("a", {}) or ()}


@pytest.mark.parametrize("wrong", ["two", "0", "-1", "1.5", ""])
def test_a_job_that_cannot_be_read_says_why_and_hides_no_other(wrong: str) -> None:
    bad = {"taskmanager.numberOfTaskSlots": wrong}
    server = Server(job("good"), job("bad", **bad), OPEN)
    with closing(JobCache(server, "a", "")) as known:  # type: ignore[arg-type]
        assert slots(known) == {"good": ("STARTING", 1), "bad": ("UNKNOWN", 1)}
        reason = known.by_name("a", "bad").reason
        assert f"flinkConfiguration says taskmanager.numberOfTaskSlots: {wrong}, which is no number of slots" in reason
        assert "kubectl edit" in reason
        server.events.put(job("good", 2, **{"taskmanager.numberOfTaskSlots": "4"}))
        server.events.put(job("bad", 3, **{"taskmanager.numberOfTaskSlots": "2"}))
        await_that(lambda: slots(known) == {"good": ("STARTING", 4), "bad": ("STARTING", 2)})


@pytest.mark.parametrize("end", [NotFound("the kind is not known"), RuntimeError("nobody has thought of it")])
def test_a_watch_that_ends_is_no_knowledge_any_more_and_another_begins(
    end: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_AGAIN_SECONDS", 0.1)
    server = Server(job("one"), OPEN)
    with closing(JobCache(server, "a", "")) as known:  # type: ignore[arg-type]
        assert known.all("a", {}) is not None
        server.events.put(end)
        await_that(lambda: known.all("a", {}) is None)
        assert known.by_name("a", "one") is None  # who reads asks the server
        for event in (job("two"), OPEN):
            server.events.put(event)
        await_that(lambda: slots(known).keys() == {"two"})
