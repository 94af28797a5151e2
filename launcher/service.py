"""Managed Beam jobs as a library: what other services, the command line and the runner do with jobs on Kubernetes.

A job is its FlinkDeployment; the Flink Kubernetes Operator does what that says. Every method here asks for something by
one patch and waits, for a bounded time, until the operator has done it. Only jobs that this package made are changed.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

from beam_k8s.checks import room_for_workers, scaled_by
from beam_k8s.errors import (
    BeamK8sError,
    ConfigError,
    Conflict,
    Forbidden,
    JobFailed,
    KubernetesError,
    NotFound,
    TimedOut,
)
from beam_k8s.flink_conf import SAVEPOINT_ON_DELETION
from beam_k8s.launcher import pod_logs
from beam_k8s.launcher.cache import JobCache
from beam_k8s.launcher.kube import AUTOSCALERS, DEPLOYMENTS, EVENTS, LEASES, PODS, QUOTAS, SECRETS, Kind, owner_of
from beam_k8s.launcher.leases import HeldLeases, Lease
from beam_k8s.names import FROZEN_ANNOTATION, JOB_ID_LABEL, JOB_SELECTOR
from beam_k8s.states import TERMINAL
from beam_k8s.status import JobStatus, is_ours, job_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from beam_k8s.launcher.kube import Kube

__all__ = ["NEEDED", "KubernetesOperatorService", "lease_name", "missing_verbs"]

NEEDED: tuple[tuple[Kind, str, tuple[str, ...]], ...] = (
    # What, subresource, verbs: all that this package ever asks of the API server, but for reviews of its own rights.
    (DEPLOYMENTS, "", ("get", "list", "watch", "create", "patch", "delete")),
    (DEPLOYMENTS, "scale", ("patch",)),
    # Options hold secrets: whoever launches can write them and never read them again.
    (SECRETS, "", ("create", "patch")),
    # `beam-k8s doctor` looks from a pod of its own; whoever creates FlinkDeployments can make any pod anyway.
    (PODS, "", ("get", "list", "watch", "create", "delete")),
    (PODS, "log", ("get",)),
    # A WebSocket to a port is a GET: older servers ask for that verb, newer ones for both.
    (PODS, "portforward", ("get", "create")),
    (EVENTS, "", ("list",)),
    # Whoever scales a job holds its Lease; a fleet's autoscaler watches who does.
    (LEASES, "", ("get", "list", "watch", "create", "patch")),
    (QUOTAS, "", ("list",)),
    (Kind("", "v1", "persistentvolumeclaims"), "", ("get",)),
    (Kind("", "v1", "serviceaccounts"), "", ("get",)),
    (Kind("authorization.k8s.io", "v1", "localsubjectaccessreviews"), "", ("create",)),
    (AUTOSCALERS, "", ("list",)),
)
"""The Role in images/deploy grants exactly this."""

_OURS = ",".join(f"{key}={value}" for key, value in JOB_SELECTOR.items())
_GRACE_SECONDS = 60
"""For so long the operator tries a savepoint again before it says that it failed."""
_QUIET_SECONDS = 2.0
"""Without a change for so long, the operator is done with writing a status: on a busy machine that took one second."""
_QUOTA_SECONDS = 10
"""For so long the quotas of a namespace are not read again: many jobs may be in it."""
_AUTOSCALERS_SECONDS = 60
"""The same of its HorizontalPodAutoscalers, which come and go with people."""
_SUBMIT_SECONDS = 1800
"""Longest wait for a submission: it may build an image."""
_ERRORS: Mapping[int, type[BeamK8sError]] = {
    kind.exit_code: kind for kind in (BeamK8sError, ConfigError, JobFailed, NotFound, TimedOut)
}


def missing_verbs(kube: Kube, namespace: str, kinds: set[Kind] | None = None) -> list[str]:
    """What the user may not do of all that is ever done, or of that with some kinds of objects: ``VERB RESOURCE``."""
    return [
        f"{verb} {kind}/{subresource}" if subresource else f"{verb} {kind}"
        for kind, subresource, verbs in NEEDED
        for verb in verbs
        if (kinds is None or kind in kinds) and not kube.may(verb, kind, namespace, subresource=subresource)
    ]


def lease_name(job: str) -> str:
    """The Lease that whoever scales a job of this name holds."""
    return f"{job}-autoscaler"


class KubernetesOperatorService:
    """Beam jobs on one cluster, as one user. Safe to use from several threads.

    Args:
        kube: the cluster and the user.
        cache: answer reads from memory: the first of a namespace starts a watch of it. Reading all namespaces starts
            one that serves all.
        patience: seconds that the operator may take for one thing that is asked of it; a savepoint may take a minute
            longer.
    """

    def __init__(self, kube: Kube, *, cache: bool = True, patience: float = 60.0) -> None:
        self._kube = kube
        self._patience = patience
        self._caches: dict[str, JobCache] | None = {} if cache else None
        self._lock = threading.Lock()
        """Of the dictionary."""
        self._lists: dict[tuple[Kind, str], tuple[float, list[dict[str, Any]]]] = {}
        """By kind and namespace: when the objects were read, and they."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the watches behind cached reads. Idempotent; whoever reads later starts them again."""
        with self._lock:
            caches = list((self._caches or {}).values())
            if self._caches:
                self._caches.clear()
        for cache in caches:
            cache.close()

    # Reads

    def get_status_of_job_by_name(self, namespace: str, name: str) -> JobStatus:
        """The job of a FlinkDeployment, whoever made it.

        Raises:
            NotFound: there is none of that name.
        """
        return self._known(namespace, name) or job_status(self._get(namespace, name))

    def get_status_of_job_by_id(self, namespace: str, job_id: str) -> JobStatus:
        """The job of one submission.

        Args:
            namespace: empty: of all namespaces.
            job_id: of the submission, not Flink's.

        Raises:
            NotFound: there is none.
        """
        cache = self._cache(namespace)
        if cache is not None and (status := cache.by_id(namespace, job_id)) is not None:
            return status
        found, _ = self._kube.find(DEPLOYMENTS, namespace, labels=f"{_OURS},{JOB_ID_LABEL}={job_id}")
        if not found:
            raise NotFound(f"no job of id {job_id} is in {_place(namespace)}.", hint="See `beam-k8s get`.")
        return job_status(found[0])

    def get_all_jobs(self, namespace: str, label_selector: str = "") -> list[JobStatus]:
        """All jobs that this package made, by namespace and name.

        Args:
            namespace: empty: of all namespaces.
            label_selector: only those that it chooses; as kubectl's ``-l``.
        """
        cache, wanted = self._cache(namespace), _equalities(label_selector)
        jobs = None if cache is None or wanted is None else cache.all(namespace, wanted)
        if jobs is None:
            found, _ = self._kube.find(DEPLOYMENTS, namespace, labels=_selector(label_selector))
            jobs = [job_status(each) for each in found]
        return sorted(jobs, key=lambda status: (status.namespace, status.name))

    def watch(self, namespace: str, label_selector: str = "", *, seconds: float | None = None) -> Iterator[JobStatus]:
        """All jobs that this package made, then each change of one; a job that was deleted comes as CANCELLED.

        Args:
            namespace: empty: of all namespaces.
            label_selector: as in ``get_all_jobs``.
            seconds: after which it ends; None: never.
        """
        last: dict[str, JobStatus] = {}
        for what, thing in self._kube.follow(DEPLOYMENTS, namespace, labels=_selector(label_selector), seconds=seconds):
            if what in {"ADDED", "MODIFIED"}:
                status = last[thing["metadata"]["uid"]] = job_status(thing)
                yield status
            elif what == "DELETED":
                gone = last.pop(thing["metadata"]["uid"])
                yield replace(gone, state="CANCELLED", reason="was deleted", lifecycle="DELETED")

    def wait(self, namespace: str, name: str, until: Callable[[JobStatus], bool], *, timeout: float) -> JobStatus:
        """Watch a job until it is as wanted.

        Args:
            namespace: its namespace.
            name: its name.
            until: says whether it is.
            timeout: longest wait [s].

        Raises:
            NotFound: there is no such job, or no more.
            TimedOut: it is not; names the state that it has.
        """
        return job_status(self._await(namespace, name, lambda it: until(job_status(it)), timeout=timeout))

    def logs(
        self,
        namespace: str,
        name: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        since_time: str | None = None,
        component: Literal["taskmanager", "jobmanager", "all"] = "taskmanager",
        workers_only: bool = False,
        previous: bool = False,
    ) -> Iterator[tuple[str, str]]:
        """Lines that the job's pods have written, each with the pod's name.

        Args:
            namespace: its namespace.
            name: its name.
            follow: go on with new lines, of new pods too, until the job has ended, is suspended or is gone.
            tail: only so many of each pod's last lines.
            since_time: only lines since then (RFC 3339).
            component: of which pods.
            workers_only: only what Python workers logged, tracebacks included.
            previous: of containers before their last restart.

        Raises:
            NotFound: there is no such job.
        """
        self._get(namespace, name)
        wanted = "component in (jobmanager,taskmanager)" if component == "all" else f"component={component}"
        lines = pod_logs.read(
            self._kube,
            namespace,
            f"app={name},{wanted}",
            pod_logs.Wanted(tail=tail, since_time=since_time, previous=previous),
            until=(lambda: self._has_no_pods(namespace, name)) if follow else None,
        )
        return pod_logs.of_workers(lines) if workers_only else lines

    def missing_verbs(self, namespace: str) -> list[str]:
        """What the user may not do of all that this package does, each as ``VERB RESOURCE``; empty: all is well."""
        return missing_verbs(self._kube, namespace)

    # Writes

    def submit_job(self, namespace: str, args: Sequence[str], *, timeout: float = _SUBMIT_SECONDS) -> JobStatus:
        """Run a pipeline script in a process of its own until its job is submitted.

        Args:
            namespace: of the job.
            args: the script and its flags, as after ``beam-k8s run``.
            timeout: longest wait [s]; an image may have to be built.

        Raises:
            BeamK8sError: what ``beam-k8s run`` said. Nothing is left behind.
            TimedOut: it took too long, and was ended.
        """
        job_id = uuid.uuid4().hex
        ours = [f"--k8s_namespace={namespace}", f"--k8s_job_id={job_id}", "--k8s_detach", *self._kube.flags]
        with subprocess.Popen(
            [sys.executable, "-m", "beam_k8s", "run", *args, *ours],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                _, said = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                raise TimedOut(
                    f"{args[0]} was not submitted within {timeout:g} s.", hint="Give it more time, or run it by hand."
                ) from None
            finally:
                _end(process)
        if process.returncode:
            raise _submit_error(process.returncode, said)
        return self.get_status_of_job_by_id(namespace, job_id)

    def update_replica(self, namespace: str, name: str, replicas: int) -> JobStatus:
        """Run a job on another number of TaskManagers; returns at once, the operator adds or removes pods.

        Raises:
            ConfigError: not so many.
            NotFound: there is no such job.
        """
        found = self._ours(namespace, name)
        status, most = job_status(found), found["spec"].get("flinkConfiguration", {}).get("pipeline.max-parallelism")
        if replicas < 1:
            raise ConfigError(
                f"{name} cannot have {replicas} workers.", hint=f"One at least; to stop it: beam-k8s suspend {name}"
            )
        if most is not None and replicas * status.slots > int(most):
            raise ConfigError(
                f"{name} cannot have {replicas} workers of {status.slots} slots: its maximum parallelism is {most}.",
                hint=f"Use at most {int(most) // status.slots}; --max_parallelism is fixed when a job first starts.",
            )
        self._change(found, {"replicas": replicas}, subresource="scale")
        return self._seen(self._get(namespace, name))

    def room_for_workers(self, namespace: str, name: str) -> int | None:
        """How many more TaskManagers of a job the namespace's quotas have room for, as they were a few seconds ago.

        Returns:
            None: any number, or nobody may look at quotas.

        Raises:
            NotFound: there is no such job.
        """
        quotas = self._found(QUOTAS, namespace, _QUOTA_SECONDS)
        return room_for_workers(self._get(namespace, name), quotas) if quotas else None

    def horizontal_autoscaler(self, namespace: str, name: str) -> str:
        """The HorizontalPodAutoscaler that changes a job's workers, as it was known a minute ago.

        Returns:
            empty: none, or nobody may look at them.
        """
        found = self._found(AUTOSCALERS, namespace, _AUTOSCALERS_SECONDS)
        return next((each["metadata"]["name"] for each in found if scaled_by(each) == name), "")

    def _found(self, kind: Kind, namespace: str, seconds: float) -> list[dict[str, Any]]:
        """A namespace's objects, read anew when that was so long ago; none if nobody may look at them."""
        read, objects = self._lists.get((kind, namespace), (-math.inf, []))
        if time.monotonic() - read > seconds:
            try:
                objects, _ = self._kube.find(kind, namespace)
            except Forbidden:
                objects = []
            self._lists[kind, namespace] = time.monotonic(), objects
        return objects

    def rescale(self, namespace: str, name: str, current: int, target: int, notes: Mapping[str, str]) -> None:
        """Run a job on another number of TaskManagers and keep annotations, both or neither; returns at once.

        Args:
            namespace: of the job.
            name: of the job.
            current: TaskManagers that it is known to have.
            target: TaskManagers that it is to have.
            notes: annotations.

        Raises:
            Conflict: it is to have others than ``current`` by now, or is being changed; nothing is changed.
            NotFound: there is no such job.
        """
        found = self._ours(namespace, name)
        self._seen(self._change(found, {"taskManager": {"replicas": target}}, notes=notes, workers=current))

    def freeze(self, namespace: str, name: str, *, frozen: bool) -> None:
        """Let no autoscaler change a job's workers, or let it again.

        Raises:
            NotFound: there is no such job.
        """
        self._seen(self._change(self._ours(namespace, name), {}, notes={FROZEN_ANNOTATION: "true" if frozen else None}))

    def lease(self, job: JobStatus, identity: str) -> Lease:
        """What whoever scales a job holds; nothing is asked yet.

        Args:
            job: which.
            identity: of who wants it.
        """
        metadata = {"labels": JOB_SELECTOR, "ownerReferences": [owner_of(job.name, job.uid)]}
        return Lease(self._kube, job.namespace, lease_name(job.name), identity, metadata=metadata)

    def held_leases(self, namespace: str) -> HeldLeases:
        """Who holds the Leases (``lease_name``) of the jobs of a namespace, or with an empty one of all.

        The caller closes it.
        """
        return HeldLeases(self._kube, namespace, _OURS)

    def memory(self, namespace: str, name: str, *, cached: bool = False) -> str | None:
        """See ``JobStatus.memory``.

        Args:
            namespace: of the job.
            name: of the job.
            cached: it may be as old as what cached reads say of the job's workers.

        Raises:
            NotFound: there is no such job.
        """
        known = self._known(namespace, name) if cached else None
        return (known or job_status(self._ours(namespace, name))).memory

    def savepoint(self, namespace: str, name: str) -> str:
        """Take a savepoint of a running job, which goes on; returns its URL.

        Raises:
            KubernetesError: it cannot be taken.
            NotFound: there is no such job.
            TimedOut: it was not taken yet.
        """
        found = self._running(self._ours(namespace, name), "No savepoint can be taken of it now.")
        nonce = time.time_ns() // 1_000_000
        self._change(found, {"job": {"savepointTriggerNonce": nonce}})

        def is_over(deployment: dict[str, Any]) -> bool:
            info = _savepoints(deployment)
            if (info.get("lastSavepoint") or {}).get("triggerNonce") == nonce:
                return True
            handled = _reconciled(deployment).get("savepointTriggerNonce") == nonce
            return handled and not info.get("triggerId")

        over = self._await(namespace, name, is_over, timeout=self._patience + _GRACE_SECONDS)
        self._seen(over)
        last = _savepoints(over).get("lastSavepoint") or {}
        if last.get("triggerNonce") != nonce:
            raise KubernetesError(
                f"the savepoint of {name} failed: {self._said(over, 'SavepointError')}",
                hint="The job goes on. Look at `beam-k8s logs --component=jobmanager`.",
            )
        return str(last["location"])

    def suspend(self, namespace: str, name: str) -> JobStatus:
        """Stop a job with a savepoint, from which ``resume`` starts it; returns when it is suspended.

        Raises:
            KubernetesError: no savepoint can be taken: the job goes on.
            NotFound: there is no such job.
            TimedOut: it is not suspended yet.
        """
        found = self._ours(namespace, name)
        if _is_stateless(found):
            raise KubernetesError(
                f"{name} cannot be suspended: it keeps no state to start again from.",
                hint=f"To end it: beam-k8s delete {name}",
            )
        return self._seen(self._suspend(found))

    def resume(self, namespace: str, name: str) -> JobStatus:
        """Start a suspended job from its savepoint; returns at once.

        Raises:
            NotFound: there is no such job.
        """
        return self._seen(self._change(self._ours(namespace, name), {"job": {"state": "running"}}))

    def delete_job_by_name(self, namespace: str, name: str, *, savepoint: bool = True, wait: bool = True) -> JobStatus:
        """End a job and remove all that it has on Kubernetes; its checkpoints and savepoints stay.

        Args:
            namespace: its namespace.
            name: its name.
            savepoint: stop it with a savepoint first, unless it has ended, has never run or keeps no state.
            wait: until its pods are gone.

        Returns:
            The last that was known of it, with the savepoint's URL.

        Raises:
            KubernetesError: no savepoint can be taken: the job goes on.
            NotFound: there is no such job.
            TimedOut: it is not gone yet.
        """
        return self._delete(self._ours(namespace, name), savepoint=savepoint, wait=wait)

    def delete_job_by_id(self, namespace: str, job_id: str, *, savepoint: bool = True, wait: bool = True) -> JobStatus:
        """As ``delete_job_by_name``, of the job of one submission."""
        status = self.get_status_of_job_by_id(namespace, job_id)
        found = self._ours(status.namespace, status.name)
        if found["metadata"]["uid"] != status.uid:
            raise NotFound(f"the job of id {job_id} is gone; another is named {status.name}.")
        return self._delete(found, savepoint=savepoint, wait=wait)

    # How it is done

    def _cache(self, namespace: str) -> JobCache | None:
        """The cache that knows a namespace, if reads are cached."""
        if self._caches is None:
            return None
        with self._lock:
            cache = self._caches.get("") or self._caches.get(namespace)
            if cache is None:
                cache = self._caches[namespace] = JobCache(self._kube, namespace, _OURS)
            return cache

    def _known(self, namespace: str, name: str) -> JobStatus | None:
        """What the cache says of a job; None: nothing that is up to date."""
        cache = self._cache(namespace)
        return None if cache is None else cache.by_name(namespace, name)

    def _settled_version(self, namespace: str, name: str) -> str:
        """The version of a job's object that is known to be quiet; empty: none is."""
        for cache in self._watching(namespace):
            if version := cache.settled_version(namespace, name, _QUIET_SECONDS):
                return version
        return ""

    def _watching(self, namespace: str) -> list[JobCache]:
        """The caches that have a namespace, of those there are."""
        with self._lock:
            found = [(self._caches or {}).get(each) for each in ("", namespace)]
        return [each for each in found if each is not None]

    def _seen(self, deployment: dict[str, Any], what: str = "MODIFIED") -> JobStatus:
        """What an object says that was just written; reads that follow say the same or newer."""
        for cache in self._watching(deployment["metadata"]["namespace"]):
            cache.apply(what, deployment)
        return job_status(deployment)

    def _get(self, namespace: str, name: str) -> dict[str, Any]:
        found = self._kube.get(DEPLOYMENTS, namespace, name)
        if found is None:
            raise _no_job(namespace, name)
        return found

    def _ours(self, namespace: str, name: str) -> dict[str, Any]:
        found = self._get(namespace, name)
        if not is_ours(found):
            raise KubernetesError(
                f"FlinkDeployment {name} in {namespace} was not made by beam_k8s, which leaves it alone.",
                hint="Use kubectl for it.",
            )
        return found

    def _change(
        self,
        deployment: dict[str, Any],
        spec: dict[str, Any],
        *,
        subresource: str = "",
        notes: Mapping[str, str | None] | None = None,
        workers: int | None = None,
    ) -> dict[str, Any]:
        """Change the spec of this very object, and annotations with it, once it is quiet and if it has ``workers``.

        Flink's operator 1.7 writes each status three times. Of a change between them it concludes that the status is
        somebody else's, and forgets what it has just done: a job that it has suspended never starts again.
        """
        metadata = deployment["metadata"]
        version = self._settled_version(metadata["namespace"], metadata["name"])
        until = time.monotonic() + self._patience
        while True:
            whole = self._ours(metadata["namespace"], metadata["name"])
            found, wanted = whole["metadata"], job_status(whole).workers
            if found["uid"] != metadata["uid"]:
                raise _no_job(metadata["namespace"], metadata["name"])
            if workers not in (None, wanted):
                raise Conflict(f"somebody else has changed the workers of {metadata['name']}, to {wanted}.")
            if found["resourceVersion"] == version or time.monotonic() > until:
                body = {"metadata": {"resourceVersion": found["resourceVersion"]}, "spec": spec}
                if notes:
                    body["metadata"]["annotations"] = dict(notes)
                place = (DEPLOYMENTS, metadata["namespace"], metadata["name"])
                try:
                    return self._kube.patch(*place, body, subresource=subresource)
                except Conflict:
                    if time.monotonic() > until:
                        raise
            version = found["resourceVersion"]
            time.sleep(_QUIET_SECONDS)

    def _await(
        self, namespace: str, name: str, until: Callable[[dict[str, Any]], bool], *, timeout: float
    ) -> dict[str, Any]:
        last: dict[str, Any] | None = None
        for what, thing in self._kube.follow(DEPLOYMENTS, namespace, fields=f"metadata.name={name}", seconds=timeout):
            if what in {"ADDED", "MODIFIED"}:
                last = thing
                if until(thing):
                    return thing
            elif what == "DELETED" or (what == "OPEN" and last is None):
                raise _no_job(namespace, name)
        if last is None:
            raise TimedOut(f"{name} in {namespace} was not seen within {timeout:g} s.")
        status = job_status(last)
        detail = status.error or status.reason
        raise TimedOut(
            f"{name} in {namespace} is {status.state} after {timeout:g} s{f': {detail}' if detail else ''}.",
            hint=f"It may still come. Look at `beam-k8s describe {name}`.",
        )

    def _await_none(self, kind: Kind, namespace: str, *, labels: str = "", fields: str = "", timeout: float) -> bool:
        """Whether nothing that is chosen is left after some time."""
        left: set[str] = set()
        for what, thing in self._kube.follow(kind, namespace, labels=labels, fields=fields, seconds=timeout):
            if what in {"ADDED", "MODIFIED"}:
                left.add(thing["metadata"]["uid"])
            elif what == "DELETED":
                left.discard(thing["metadata"]["uid"])
            if not left and what in {"OPEN", "DELETED"}:
                return True
        return False

    def _running(self, deployment: dict[str, Any], otherwise: str) -> dict[str, Any]:
        """The job as it runs; one that just restarts is waited for."""
        metadata = deployment["metadata"]

        def is_settled(it: dict[str, Any]) -> bool:
            status = job_status(it)
            return status.flink_state == "RUNNING" or status.state in {*TERMINAL, "STOPPED"}

        try:
            settled = self._await(metadata["namespace"], metadata["name"], is_settled, timeout=self._patience)
        except TimedOut as late:
            raise KubernetesError(f"{late.message} {otherwise}", hint=_WITHOUT.format(metadata["name"])) from late
        status = job_status(settled)
        if status.flink_state != "RUNNING":
            raise KubernetesError(f"{status.name} in {status.namespace} is {status.state}. {otherwise}")
        return settled

    def _suspend(self, deployment: dict[str, Any]) -> dict[str, Any]:
        """Stop with a savepoint."""
        metadata = deployment["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        if not job_status(deployment).suspended:
            running = self._running(deployment, "No savepoint can be taken of it now.")
            deployment = self._change(running, {"job": {"state": "suspended", "upgradeMode": "savepoint"}})

        def is_over(it: dict[str, Any]) -> bool:
            status = job_status(it)
            return status.lifecycle == "SUSPENDED" or status.state in TERMINAL

        try:
            return self._await(namespace, name, is_over, timeout=self._patience + _GRACE_SECONDS)
        except TimedOut as late:
            status = job_status(self._get(namespace, name))
            if not status.error:
                raise
            self._change(deployment, {"job": {"state": "running"}})
            raise KubernetesError(
                f"{name} cannot be stopped with a savepoint: {status.error}",
                hint=f"The job goes on. {_WITHOUT.format(name)}",
            ) from late

    def _delete(self, deployment: dict[str, Any], *, savepoint: bool, wait: bool) -> JobStatus:
        if savepoint and _may_have_state(deployment):
            deployment = self._suspend(deployment)
        if "deletionTimestamp" not in deployment["metadata"]:
            # Else the operator may wait for a savepoint of a job of which none can be taken.
            deployment = self._change(deployment, {"flinkConfiguration": {SAVEPOINT_ON_DELETION: "false"}})
        last = job_status(deployment)
        self._kube.delete(DEPLOYMENTS, last.namespace, last.name, uid=last.uid)
        if wait:
            until = time.monotonic() + self._patience
            pods = f"app={last.name},component in (jobmanager,taskmanager)"
            for kind, chosen in ((DEPLOYMENTS, {"fields": f"metadata.name={last.name}"}), (PODS, {"labels": pods})):
                left = max(1.0, until - time.monotonic())
                if not self._await_none(kind, last.namespace, **chosen, timeout=left):
                    raise TimedOut(
                        f"{last.name} in {last.namespace} is being deleted, but {kind} are left.",
                        hint="Check that the Flink Kubernetes operator runs.",
                    )
            self._seen(deployment, "DELETED")
        return last

    def _has_no_pods(self, namespace: str, name: str) -> None:
        """Return when the job has ended, is suspended or is gone."""
        for what, thing in self._kube.follow(DEPLOYMENTS, namespace, fields=f"metadata.name={name}"):
            if what == "DELETED":
                return
            if what in {"ADDED", "MODIFIED"} and job_status(thing).state in {*TERMINAL, "STOPPED"}:
                return

    def _said(self, deployment: dict[str, Any], reason: str) -> str:
        """The operator's last event of that reason about an object."""
        metadata = deployment["metadata"]
        fields = f"involvedObject.uid={metadata['uid']},reason={reason}"
        events, _ = self._kube.find(EVENTS, metadata["namespace"], fields=fields)
        newest = max(events, key=lambda event: event.get("lastTimestamp") or "", default={})
        return str(newest.get("message") or "the operator does not say why.")


_WITHOUT = "To end it without a savepoint: beam-k8s delete {} --no-savepoint"


def _selector(more: str) -> str:
    return f"{_OURS},{more}" if more else _OURS


def _equalities(selector: str) -> dict[str, str] | None:
    """The labels that a selector asks for; None if it asks for anything else."""
    pairs = [part.partition("=") for part in selector.split(",") if part]
    if all(equals and not key.endswith("!") and "(" not in key for key, equals, _ in pairs):
        return {key.strip(): value.removeprefix("=").strip() for key, _, value in pairs}
    return None


def _place(namespace: str) -> str:
    return f"namespace {namespace}" if namespace else "any namespace"


def _no_job(namespace: str, name: str) -> NotFound:
    return NotFound(f"no job {name} is in namespace {namespace}.", hint=f"See `beam-k8s get -n {namespace}`.")


def _is_stateless(deployment: Mapping[str, Any]) -> bool:
    job = deployment["spec"].get("job") or {}
    return bool(job.get("upgradeMode", "stateless") == "stateless")


def _may_have_state(deployment: Mapping[str, Any]) -> bool:
    """Whether a savepoint would keep something that is kept nowhere else."""
    ever_ran = (deployment.get("status") or {}).get("reconciliationStatus", {}).get("lastStableSpec")
    status = job_status(deployment)
    over = status.state in TERMINAL or status.lifecycle in {"SUSPENDED", "DELETING"}
    return bool(ever_ran) and not over and not _is_stateless(deployment)


def _savepoints(deployment: Mapping[str, Any]) -> dict[str, Any]:
    return ((deployment.get("status") or {}).get("jobStatus") or {}).get("savepointInfo") or {}


def _reconciled(deployment: Mapping[str, Any]) -> dict[str, Any]:
    """The job part of the spec that the operator has dealt with."""
    text = ((deployment.get("status") or {}).get("reconciliationStatus") or {}).get("lastReconciledSpec")
    return (json.loads(text)["spec"].get("job") or {}) if text else {}


def _end(process: subprocess.Popen[str]) -> None:
    """Let a process clean up and end, then end what it started."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _submit_error(code: int, said: str) -> BeamK8sError:
    """The error that ``beam-k8s run`` printed last."""
    _, found, error = said.rpartition("error: ")
    message, _, hint = (error if found else said.strip().rpartition("\n")[2]).strip().partition("\n  ")
    return _ERRORS.get(code, BeamK8sError)(message or f"beam-k8s run ended with exit code {code}.", hint=hint)
