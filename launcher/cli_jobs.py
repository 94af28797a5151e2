"""The verbs of ``beam-k8s`` for jobs on Kubernetes, with kubectl's flags. Only data goes to stdout."""

from __future__ import annotations

import functools
import inspect
import json
import re
import signal
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from beam_k8s.errors import ConfigError, JobFailed, KubernetesError, NotFound
from beam_k8s.launcher import printers
from beam_k8s.names import JOB_SELECTOR
from beam_k8s.states import TERMINAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from beam_k8s.launcher.kube import Kube
    from beam_k8s.launcher.service import KubernetesOperatorService
    from beam_k8s.status import JobStatus

__all__ = ["Cluster", "duration", "job_object", "on_cluster", "register", "say"]

_DELETED = "DELETED"
"""What ``wait --for`` calls a job that is gone."""
_STATES = ("STARTING", "RUNNING", "STOPPED", "CANCELLING", "CANCELLED", "DONE", "FAILED", _DELETED)
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")


_MINUTE: Any = "1m"
_TEN_MINUTES: Any = "10m"
"""Read as if they were given on the command line."""


def say(text: str) -> None:
    """One line for the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


def duration(text: str) -> float:
    """Seconds of a duration as kubectl takes it: ``90s``, ``10m``, ``1h30m``, or plain seconds."""
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise typer.BadParameter(f"{text} is no duration: use for example 90s, 10m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


class Cluster(NamedTuple):
    """Where a command works and as whom; None is kubectl's default."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None
    user: str | None = None

    def connect(self) -> Kube:
        """A client for it; nothing is asked yet."""
        from beam_k8s.launcher.kube import Kube

        return Kube.connect(
            namespace=self.namespace, context=self.context, kubeconfig=self.kubeconfig, impersonate=self.user
        )

    def service(self, patience: float = 60.0) -> tuple[KubernetesOperatorService, str]:
        """What works on jobs there, and the namespace.

        Args:
            patience: seconds that the operator may take for what is asked of it.
        """
        from beam_k8s.launcher.service import KubernetesOperatorService

        kube = self.connect()
        return KubernetesOperatorService(kube, cache=False, patience=patience), kube.namespace


def _flags(
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", envvar="BEAM_K8S_NAMESPACE", help="Default: that of the context."),
    ] = None,
    context: Annotated[
        str | None, typer.Option(envvar="BEAM_K8S_CONTEXT", help="Of the kubeconfig; default: its current one.")
    ] = None,
    kubeconfig: Annotated[
        str | None, typer.Option(envvar="BEAM_K8S_KUBECONFIG", help="File; default: as kubectl, or the pod's account.")
    ] = None,
    user: Annotated[
        str | None, typer.Option("--as", envvar="BEAM_K8S_IMPERSONATE", help="User to act as (impersonation).")
    ] = None,
) -> None:
    """The flags of every command that talks to a cluster."""
    _ = namespace, context, kubeconfig, user


def on_cluster(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags that say where; they reach its first parameter as one ``Cluster``."""
    where = inspect.signature(_flags, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def with_flags(**given: Any) -> None:
        command(Cluster(*(given.pop(name) for name in where)), **given)

    parameters = [*own, *where.values()]
    with_flags.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    with_flags.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_flags


class Output(StrEnum):
    """Forms of ``get``."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class Component(StrEnum):
    """Pods that write logs."""

    TASK_MANAGER = "taskmanager"
    JOB_MANAGER = "jobmanager"
    ALL = "all"


Name = Annotated[str, typer.Argument(help="The job's name.")]
Timeout = Annotated[
    float, typer.Option(parser=duration, metavar="DURATION", help="How long the operator may take; the request stays.")
]
Savepoint = Annotated[bool, typer.Option(help="Stop it with a savepoint first; its URL is printed.")]


@on_cluster
def get(
    cluster: Cluster,
    names: Annotated[list[str] | None, typer.Argument(metavar="[jobs] NAME", help="Default: all.")] = None,
    *,
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")] = False,
    selector: Annotated[str, typer.Option("--selector", "-l", help="Only with these labels, as kubectl's.")] = "",
    output: Annotated[Output, typer.Option("--output", "-o")] = Output.TABLE,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on with each change.")] = False,
) -> None:
    """List jobs."""
    from beam_k8s.launcher.kube import DEPLOYMENTS

    names = names or []
    if names[:1] in (["jobs"], ["job"]):
        del names[0]
    if names and (everywhere or selector):
        raise ConfigError("a job's name goes with neither -A nor -l.", hint="Name it in its namespace: -n NAMESPACE")
    kube = cluster.connect()
    namespace = "" if everywhere else kube.namespace
    if names:
        found = [job_object(kube, name) for name in names]
    else:
        ours = ",".join(f"{key}={value}" for key, value in JOB_SELECTOR.items())
        found, _ = kube.find(DEPLOYMENTS, namespace, labels=",".join(filter(None, (ours, selector))))
    printer = _Printer(output, namespaces=everywhere)
    printer.show(found, single=len(names) == 1)
    if not found:
        say(f"No jobs found in {f'namespace {namespace}' if namespace else 'any namespace'}.")
    if watch:
        service, _ = cluster.service()
        for status in service.watch(namespace, selector):
            if not names or status.name in names:
                printer.change(kube, status)


class _Printer:
    """Prints FlinkDeployments in one form."""

    def __init__(self, output: Output, *, namespaces: bool) -> None:
        self._output = output
        self._form = {"wide": output is Output.WIDE, "namespaces": namespaces}
        self._columns = printers.job_columns(**self._form)
        self._table = printers.Table([0] * len(self._columns))
        self._shown: dict[str, str] = {}
        """Versions by uid."""

    def show(self, deployments: list[dict[str, Any]], *, single: bool) -> None:
        """Print the objects themselves, their names, or a table with its headers."""
        self._shown |= {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in deployments}
        if self._output in {Output.TABLE, Output.WIDE}:
            from beam_k8s.status import job_status

            rows = [printers.job_row(job_status(each), time.time(), **self._form) for each in deployments]
            if rows:
                self._table.fit([self._columns, *rows])
                print("\n".join(map(self._table.line, [self._columns, *rows])), flush=True)
            return
        if self._output is Output.NAME:
            for each in deployments:
                print(f"flinkdeployment.flink.apache.org/{each['metadata']['name']}", flush=True)
            return
        for each in deployments:
            each["metadata"].pop("managedFields", None)  # as kubectl: nobody reads them
        items = {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": deployments}
        self._print(deployments[0] if single else items)

    def change(self, kube: Kube, status: JobStatus) -> None:
        """Print what a job is now, if that is new; of one that is gone only what a table can say."""
        if self._shown.get(status.uid) == status.version and status.lifecycle != "DELETED":
            return
        self._shown[status.uid] = status.version
        if self._output in {Output.TABLE, Output.WIDE}:
            print(self._table.line(printers.job_row(status, time.time(), **self._form)), flush=True)
            return
        from beam_k8s.launcher.kube import DEPLOYMENTS

        deployment = kube.get(DEPLOYMENTS, status.namespace, status.name)
        if deployment is not None:
            self.show([deployment], single=True)

    def _print(self, document: dict[str, Any]) -> None:
        if self._output is Output.JSON:
            print(json.dumps(document, indent=4, ensure_ascii=False), flush=True)
        else:
            import yaml

            print("---\n" + yaml.safe_dump(document, allow_unicode=True), end="", flush=True)


def job_object(kube: Kube, name: str) -> dict[str, Any]:
    """The FlinkDeployment of a job, whoever made it.

    Raises:
        NotFound: there is none.
    """
    from beam_k8s.launcher.kube import DEPLOYMENTS

    found = kube.get(DEPLOYMENTS, kube.namespace, name)
    if found is None:
        raise NotFound(
            f"there is no job {name} in namespace {kube.namespace}.", hint="Those of all namespaces: beam-k8s get -A"
        )
    return found


@on_cluster
def describe(cluster: Cluster, name: Name) -> None:
    """Show all about a job: state, sources with their backlog, checkpoints, pods, last events."""
    from beam_k8s.launcher.describe import describe as read

    kube = cluster.connect()
    print(printers.described(read(kube, job_object(kube, name)), time.time()))


@on_cluster
def logs(
    cluster: Cluster,
    name: Name,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until the job ends.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only so many of each pod's last lines.")] = None,
    since: Annotated[float | None, typer.Option(parser=duration, metavar="DURATION", help="Only so far back.")] = None,
    component: Annotated[Component, typer.Option(help="Of which pods.")] = Component.TASK_MANAGER,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="Of containers before their restart.")] = False,
    workers_only: Annotated[bool, typer.Option("--workers-only", help="Only what Python workers logged.")] = False,
    prefix: Annotated[bool, typer.Option("--prefix", help="Begin each line with its pod.")] = False,
) -> None:
    """Print what a job's pods have written."""
    service, namespace = cluster.service()
    since_time = None
    if since is not None:
        since_time = (datetime.now(UTC) - timedelta(seconds=since)).isoformat(timespec="seconds").replace("+00:00", "Z")
    for pod, line in service.logs(
        namespace,
        name,
        follow=follow,
        tail=tail,
        since_time=since_time,
        component=component.value,
        workers_only=workers_only,
        previous=previous,
    ):
        print(f"[pod/{pod}] {line}" if prefix else line, flush=follow)


@on_cluster
def wait(
    cluster: Cluster,
    name: Name,
    *,
    state: Annotated[
        str, typer.Option("--for", metavar="STATE", help=f"One of {', '.join(_STATES)}, or delete.")
    ] = "DONE",
    timeout: Annotated[
        float, typer.Option(parser=duration, metavar="DURATION", help="Longest wait, for example 90s or 1h30m.")
    ] = _TEN_MINUTES,
) -> None:
    """Wait until a job is in a state; exit code 3 if it has ended in another, 124 if time ran out."""
    wanted = {"DELETE": _DELETED}.get(state.upper(), state.upper())
    if wanted not in _STATES:
        raise ConfigError(f"--for={state} is no state of a job.", hint=f"Use one of {', '.join(_STATES)}.")
    service, namespace = cluster.service()
    try:
        status = service.wait(
            namespace,
            name,
            lambda job: job.state == wanted or (job.state in TERMINAL and wanted != _DELETED),
            timeout=timeout,
        )
    except NotFound:
        if wanted != _DELETED:
            raise
        say(f"{name} is gone")
        return
    # A job that is DONE has been RUNNING.
    if status.state != wanted and (status.state, wanted) != ("DONE", "RUNNING"):
        why = status.error or status.reason
        raise JobFailed(
            f"{name} is {status.state}, it will not be {wanted}" + (f": {why}" if why else "."),
            hint=f"See `beam-k8s describe {name} -n {namespace}`.",
        )
    say(f"{name} is {status.state}")


@on_cluster
def scale(
    cluster: Cluster, name: Name, *, replicas: Annotated[int, typer.Option(help="Workers (TaskManagers) wanted.")]
) -> None:
    """Run a job on another number of workers; returns at once."""
    service, namespace = cluster.service()
    status = service.update_replica(namespace, name, replicas)
    say(f"{name} is to have {status.workers} workers")
    if status.scaled and not status.frozen:
        say(f"its autoscaler may change that; to keep it: beam-k8s freeze {name} -n {namespace}")


@on_cluster
def freeze(cluster: Cluster, name: Name) -> None:
    """Keep a job's workers as they are, whatever its autoscaler wants."""
    service, namespace = cluster.service()
    service.freeze(namespace, name, frozen=True)
    say(f"no autoscaler changes {name} until: beam-k8s unfreeze {name} -n {namespace}")


@on_cluster
def unfreeze(cluster: Cluster, name: Name) -> None:
    """Let a job's autoscaler change its workers again."""
    service, namespace = cluster.service()
    service.freeze(namespace, name, frozen=False)
    say(f"{name} is scaled by its autoscaler again")


@on_cluster
def autoscale(
    cluster: Cluster,
    *,
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Jobs of all namespaces.")] = False,
    selector: Annotated[str, typer.Option("--selector", "-l", help="Only jobs with these labels.")] = "",
) -> None:
    """Scale all jobs that were submitted with --k8s_autoscaler_mode and are not watched, until it is stopped.

    Several of these with the same selector take turns: one acts, the others wait.
    """
    from beam_k8s.launcher.fleet import Fleet
    from beam_k8s.launcher.leases import new_identity

    kube, stopped = cluster.connect(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    Fleet(kube, "" if everywhere else kube.namespace, selector, identity=new_identity()).run(stopped)


@on_cluster
def savepoint(cluster: Cluster, name: Name, *, timeout: Timeout = _MINUTE) -> None:
    """Take a savepoint of a running job, which goes on; prints its URL."""
    service, namespace = cluster.service(timeout)
    print(service.savepoint(namespace, name))


@on_cluster
def suspend(cluster: Cluster, name: Name, *, timeout: Timeout = _MINUTE) -> None:
    """Stop a job with a savepoint, to be resumed later; prints the savepoint's URL."""
    service, namespace = cluster.service(timeout)
    status = service.suspend(namespace, name)
    say(f"{name} is suspended; start it again with: beam-k8s resume {name} -n {namespace}")
    print(status.savepoint)


@on_cluster
def resume(cluster: Cluster, name: Name) -> None:
    """Start a suspended job from its savepoint; returns at once."""
    service, namespace = cluster.service()
    service.resume(namespace, name)
    say(f"{name} starts again; see `beam-k8s wait {name} --for=RUNNING -n {namespace}`")


@on_cluster
def cancel(cluster: Cluster, name: Name, *, savepoint: Savepoint = True, timeout: Timeout = _MINUTE) -> None:
    """Stop a job for good: one of this machine, which keeps its last checkpoint, else one on Kubernetes."""
    running: set[str] = set()
    if cluster == Cluster():
        from beam_k8s.launcher import local

        running = {job for job, _ in local.running_jobs()}
        if name in running and local.cancel(name):
            return
    try:
        service, namespace = cluster.service(timeout)
    except KubernetesError as cause:
        if cluster != Cluster():
            raise
        raise NotFound(
            f"no job {name} runs on this machine.", hint=f"Running: {', '.join(sorted(running)) or 'none'}"
        ) from cause
    _end(service, namespace, name, savepoint=savepoint, wait=True)


@on_cluster
def delete(
    cluster: Cluster,
    name: Name,
    *,
    savepoint: Savepoint = True,
    wait: Annotated[bool, typer.Option(help="Return when all that it ran on is gone.")] = True,
    ignore_not_found: Annotated[bool, typer.Option("--ignore-not-found", help="No job is no error.")] = False,
    timeout: Timeout = _MINUTE,
) -> None:
    """Stop a job on Kubernetes and remove all that it has there; its checkpoints and savepoints stay."""
    service, namespace = cluster.service(timeout)
    try:
        _end(service, namespace, name, savepoint=savepoint, wait=wait)
    except NotFound:
        if not ignore_not_found:
            raise


def _end(service: KubernetesOperatorService, namespace: str, name: str, *, savepoint: bool, wait: bool) -> None:
    status = service.delete_job_by_name(namespace, name, savepoint=savepoint, wait=wait)
    say(f"{name} is deleted" if wait else f"{name} is being deleted")
    if savepoint and status.savepoint:
        say("start it again with --savepoint_path=")
        print(status.savepoint)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for command in (
        get,
        describe,
        logs,
        wait,
        scale,
        freeze,
        unfreeze,
        autoscale,
        savepoint,
        suspend,
        resume,
        cancel,
        delete,
    ):
        app.command()(command)
