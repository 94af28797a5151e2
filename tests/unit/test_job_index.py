"""The index of cached jobs against a dictionary, whatever order events come in."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from beam_k8s import names
from beam_k8s.launcher.cache import JobIndex

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
