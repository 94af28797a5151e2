"""What commands print, from plain values."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_k8s import names
from beam_k8s.launcher import printers
from beam_k8s.launcher.describe import Description, event_of, pod_of
from beam_k8s.launcher.flink_rest import Checkpoints, Source
from beam_k8s.status import job_status

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()


def job(**status):
    return job_status(
        {
            "metadata": {
                "namespace": "team-a",
                "name": "flights",
                "uid": "1",
                "resourceVersion": "2",
                "creationTimestamp": "2026-01-01T11:54:28Z",
                "labels": {**names.JOB_SELECTOR, names.JOB_ID_LABEL: "0123"},
            },
            "spec": {"taskManager": {"replicas": 3}, "image": "registry/flights", "job": {"state": "running"}},
            "status": status,
        }
    )


RUNNING = job(lifecycleState="STABLE", jobStatus={"state": "RUNNING", "jobId": "ab"}, taskManager={"replicas": 2})


@pytest.mark.parametrize(
    ("seconds", "shown"),
    # As kubectl's own (k8s.io/apimachinery/pkg/util/duration, HumanDuration).
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (332, "5m32s"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 600, "3h10m"),
        (8 * 3600, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (51 * 3600, "2d3h"),
        (12 * 86400, "12d"),
        (400 * 86400, "400d"),
        (800 * 86400, "2y70d"),
        (4000 * 86400, "10y"),
    ],
)
def test_an_age_is_shown_as_kubectl_does(seconds, shown):
    assert printers.age(NOW - seconds, NOW) == shown


def test_an_age_may_be_given_as_kubernetes_writes_times():
    assert printers.age("2026-01-01T11:54:28Z", NOW) == "5m32s"
    assert printers.age("", NOW) == "?"
    assert printers.age(NOW + 5, NOW) == "0s"  # clocks differ


CELL = st.from_regex(r"[a-z]{1,9}", fullmatch=True)


@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1))
def test_columns_are_aligned(rows):
    lines = printers.lines(rows)
    assert [line.split() for line in lines] == [list(row) for row in rows]
    for column in range(3):
        starts = {len(line) - len(line.split(maxsplit=column)[column]) if column else 0 for line in lines}
        assert len(starts) == 1


def test_a_list_of_jobs_says_what_runs_and_wide_says_why():
    narrow = printers.job_row(RUNNING, NOW, wide=False, namespaces=True)
    columns = printers.job_columns(wide=False, namespaces=True)
    assert dict(zip(columns, narrow, strict=True)) == {
        "NAMESPACE": "team-a",
        "NAME": "flights",
        "STATE": "RUNNING",
        "WORKERS": "2/3",
        "AGE": "5m32s",
    }
    failed = job(lifecycleState="FAILED", error='{"message": "no such image\\nand more"}')
    wide = printers.job_row(failed, NOW, wide=True, namespaces=False)
    shown = dict(zip(printers.job_columns(wide=True, namespaces=False), wide, strict=True))
    assert shown["STATE"] == "FAILED"
    assert shown["REASON"] == "no such image"
    assert shown["JOB-ID"] == "0123"
    assert shown["SAVEPOINT"] == "-"


POD = {
    "metadata": {"name": "flights-taskmanager-x", "labels": {"component": "taskmanager"}},
    "spec": {"nodeName": "node-1"},
    "status": {"phase": "Running", "containerStatuses": [{"ready": True, "restartCount": 0, "state": {"running": {}}}]},
}


def pod(**status):
    return pod_of({**POD, "status": {"phase": "Pending", **status}})


def test_a_pod_says_what_its_last_container_died_of():
    container = {
        "ready": True,
        "restartCount": 2,
        "state": {"running": {}},
        "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
    }
    died = pod(phase="Running", containerStatuses=[container])
    assert died.reason == "last ended: OOMKilled, exit code 137"
    assert died.restarts == 2
    assert died.ready
    assert pod_of(POD).reason == ""


def test_a_pod_says_what_it_waits_for():
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    assert pod(containerStatuses=[{"state": {"waiting": waiting}}]).reason == "ImagePullBackOff: no such image"
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "too little cpu"}
    assert pod(conditions=[unschedulable]).reason == "Unschedulable: too little cpu"


def test_an_event_is_as_old_as_its_last_occurrence():
    about = {"kind": "Pod", "name": "a"}
    told = {"involvedObject": about, "type": "Warning", "reason": "Failed", "message": "m", "count": 3}
    assert event_of({**told, "lastTimestamp": "2026-01-01T12:00:00Z"}).at == NOW
    assert event_of({**told, "lastTimestamp": None, "eventTime": "2026-01-01T12:00:00.5Z"}).at == NOW + 0.5
    series = {"lastObservedTime": "2026-01-01T12:00:00Z", "count": 7}
    assert event_of({**told, "eventTime": "2026-01-01T11:00:00.5Z", "series": series}).count == 7


def description(**given):
    event = {
        "involvedObject": {"kind": "Pod", "name": "flights-taskmanager-x"},
        "type": "Warning",
        "reason": "Failed",
        "message": "cannot pull\nimage",
        "count": 2,
        "lastTimestamp": "2026-01-01T11:59:50Z",
    }
    facts = {
        "status": RUNNING,
        "sources": (Source("Read", ("words",), 3, 3, 1234, 5 << 20, 150, 9), Source("Old", (), 0, 1, None)),
        "checkpoints": Checkpoints(7, 1, 8, NOW - 5, 3 << 20, 0.25),
        "unanswered": "",
        "pods": (pod_of(POD),),
        "events": (event_of(event),),
    }
    return printers.described(Description(**facts | given), NOW)


def test_a_job_is_described():
    lines = [" ".join(line.split()) for line in description().splitlines()]
    for line in (
        "Name: flights",
        "State: RUNNING",
        "Workers: 3 wanted, 1 ready, 1 slots each",
        "Read words 3 3 1234 5.0 MiB 2m30s",
        "Old - - 1 - - -",
        "Checkpoints: number 8, 5s ago, 3.0 MiB in 0.2 s; 7 completed, 1 failed",
        "flights-taskmanager-x taskmanager Running yes 0 node-1 -",
        "10s (x2) Warning pod/flights-taskmanager-x Failed cannot pull",
    ):
        assert line in lines


def test_a_source_that_does_not_read_is_told_of():
    assert "warning" not in description()
    text = description(sources=(Source("Read", ("words",), 3, 3, 1234, stalled_seconds=70),))
    assert "warning: Read has read nothing of a partition for 70s although records of it wait" in text


def test_what_flink_does_not_tell_is_left_out_and_said():
    text = description(sources=(), checkpoints=None, unanswered="does not answer", pods=(), events=())
    assert "Flink:         does not answer" in text
    assert "Checkpoints" not in text
    assert "Sources" not in text
    assert "Pods:          none" in text
