"""A thin client of one Kubernetes API server: typed by path, patient with restarts, clear about what is forbidden.

Objects are the API's own JSON. Reads and idempotent writes are tried again while the server is away, throttles or
restarts, with jitter and for a bounded time; a refused token is read anew once. Errors are ours, the library's are
their causes.
"""

from __future__ import annotations

import copy
import http.client
import json
import os
import random
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import orjson
import urllib3
import websocket
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException

from beam_k8s.errors import BeamK8sError, Conflict, Forbidden, KubernetesError, NotFound
from beam_k8s.launcher.flink_rest import FlinkRest
from beam_k8s.launcher.port_forward import REST_PORT, ForwardedFlink, PodPort

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from beam_k8s.launcher.flink_rest import FlinkReads

__all__ = ["DEPLOYMENTS", "EVENTS", "FIELD_MANAGER", "LEASES", "PODS", "SECRETS", "Cut", "Kind", "Kube", "owner_of"]

FIELD_MANAGER = "beam-k8s"

_IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_REQUEST_SECONDS = 30.0
"""Longest wait for one answer."""
_PATIENCE_SECONDS = 60.0
"""How long an API server may be away: a control plane of one node restarts in half of it."""
_DOUBT_SECONDS = 15.0
"""For so long a refusal by a server that is not ready is not believed; some servers tell nobody that they are."""
_AGAIN = frozenset({429, 500, 502, 503, 504})
_PAGE = 500
"""Objects in one answer of a list, as kubectl asks for."""
_WATCH_SECONDS = 60
"""How long one watch lasts before another follows: a connection that died without a word is noticed then."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of namespaced objects."""

    group: str
    """``core`` is the empty one."""
    version: str
    plural: str

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """The API's path of the objects of a namespace (empty: of all), or of one of them."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        space = f"/namespaces/{namespace}" if namespace else ""
        return "/".join(filter(None, (f"{root}{space}/{self.plural}", name, subresource)))

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


DEPLOYMENTS = Kind("flink.apache.org", "v1beta1", "flinkdeployments")
PODS = Kind("", "v1", "pods")
QUOTAS = Kind("", "v1", "resourcequotas")
AUTOSCALERS = Kind("autoscaling", "v2", "horizontalpodautoscalers")
SECRETS = Kind("", "v1", "secrets")
EVENTS = Kind("", "v1", "events")
LEASES = Kind("coordination.k8s.io", "v1", "leases")


def owner_of(name: str, uid: str) -> dict[str, Any]:
    """The ownerReference of what goes with a FlinkDeployment."""
    return {
        "apiVersion": f"{DEPLOYMENTS.group}/{DEPLOYMENTS.version}",
        "kind": "FlinkDeployment",
        "name": name,
        "uid": uid,
        "controller": False,
        "blockOwnerDeletion": False,
    }


class Cut:
    """Ends streams from another thread: whoever reads them sees what he sees when the server hangs up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[Any] = set()
        self.done = False

    def cut(self) -> None:
        """End all streams, those too that are not open yet. Idempotent."""
        with self._lock:
            self.done = True
            for response in self._open:
                _hang_up(response)

    @contextmanager
    def holding(self, response: Any) -> Iterator[None]:
        """Have this response ended too, as long as this lasts."""
        with self._lock:
            self._open.add(response)
            if self.done:
                _hang_up(response)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(response)


def _hang_up(response: Any) -> None:
    with suppress(OSError, ValueError):  # it has ended already
        response.shutdown()


class Kube:
    """One API server as one user. Safe to use from several threads.

    Args:
        api: the library's client, with the user's credentials.
        namespace: where its user works unless told otherwise.
        reload: makes the client anew, with credentials as they are now.
        in_pod: this process is a pod of that cluster, which reaches its services by name.
        flags: of ``beam-k8s run``, for the same server and user.
    """

    def __init__(
        self,
        api: client.ApiClient,
        namespace: str,
        reload: Any = None,
        *,
        in_pod: bool = False,
        flags: tuple[str, ...] = (),
    ) -> None:
        self._client = api
        self.namespace = namespace
        self.flags = flags
        self._reload = reload
        self._in_pod = in_pod
        self._waits = True

    def impatient(self) -> Kube:
        """The same for whoever comes again anyway: a server that throttles (429) is not waited for, but an error.

        ``follow``, and whoever says how patient he is, waits as ever.
        """
        found = copy.copy(self)
        found._waits = False  # noqa: SLF001 - its own
        return found

    @classmethod
    def connect(
        cls,
        *,
        kubeconfig: str | None = None,
        context: str | None = None,
        namespace: str | None = None,
        impersonate: str | None = None,
    ) -> Kube:
        """Find the API server as kubectl does; nothing is asked of it yet.

        The kubeconfig (``$KUBECONFIG``, ``~/.kube/config``) says where it is, else, in a pod, the pod's own account.

        Args:
            kubeconfig: file to read instead.
            context: of the kubeconfig, instead of its current one.
            namespace: instead of that of the context or of the pod.
            impersonate: user to act as (``Impersonate-User``), like ``system:serviceaccount:NAMESPACE:NAME``.

        Raises:
            KubernetesError: there is no such configuration.
        """
        kubeconfig = kubeconfig or os.environ.get("KUBECONFIG") or None  # the library looks once, when it is imported
        in_pod = not (kubeconfig or context) and not Path("~/.kube/config").expanduser().exists() and _IN_POD.exists()

        def load() -> client.ApiClient:
            made = client.Configuration()
            if in_pod:
                config.load_incluster_config(client_configuration=made)
            else:
                config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=made)
            made.retries = False  # what may be asked again, and for how long, is decided here
            api = client.ApiClient(made)
            if impersonate:
                api.set_default_header("Impersonate-User", impersonate)
            return api

        try:
            api = load()
            found = namespace or (_pod_namespace() if in_pod else _context_namespace(kubeconfig, context))
        except (ConfigException, OSError, ValueError, TypeError) as cause:
            raise KubernetesError(
                f"no Kubernetes cluster is configured: {cause}",
                hint="Set KUBECONFIG, or name one with --kubeconfig, in a pipeline --k8s_kubeconfig; or run with "
                "--k8s_target=local.",
            ) from cause
        chosen = {"kubeconfig": kubeconfig, "context": context, "impersonate": impersonate}
        flags = tuple(f"--k8s_{name}={value}" for name, value in chosen.items() if value)
        return cls(api, found, load, in_pod=in_pod, flags=flags)

    @property
    def server(self) -> str:
        """URL of the API server."""
        return str(self._client.configuration.host)

    def close(self) -> None:
        """Close its connections; the next call opens others."""
        self._client.rest_client.pool_manager.clear()

    # Reads

    def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        """One object; None if there is none."""
        try:
            return self._json("GET", kind.path(namespace, name), "get", kind, namespace)
        except NotFound:
            return None

    def find(
        self, kind: Kind, namespace: str, *, labels: str = "", fields: str = "", patience: float | None = None
    ) -> tuple[list[dict[str, Any]], str]:
        """All objects that a label and a field selector choose, and the version of the list, from which to watch.

        Args:
            kind: of what kind.
            namespace: empty: of all namespaces.
            labels: label selector, as kubectl's ``-l``.
            fields: field selector.
            patience: seconds that the server may be away; None: a minute.
        """
        found: list[dict[str, Any]] = []
        query = {"limit": str(_PAGE), "labelSelector": labels, "fieldSelector": fields}
        while True:
            page = self._json("GET", kind.path(namespace), "list", kind, namespace, query=query, patience=patience)
            found += page["items"]
            if not (more := page["metadata"].get("continue")):
                return found, page["metadata"]["resourceVersion"]
            query["continue"] = more

    def watch(
        self,
        kind: Kind,
        namespace: str,
        version: str,
        *,
        labels: str = "",
        fields: str = "",
        seconds: int = _WATCH_SECONDS,
        cut: Cut | None = None,
        patience: float = _PATIENCE_SECONDS,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Events (ADDED, MODIFIED, DELETED, BOOKMARK) after a list's version, with the object; ends after some time.

        The first is OPEN, with an empty object: from then on nothing is missed.

        Args:
            kind: of what kind.
            namespace: empty: of all namespaces.
            version: of the list, or of the last event.
            labels: as in ``find``.
            fields: as in ``find``.
            seconds: after which it ends.
            cut: ends it earlier.
            patience: seconds that the server may be away.

        Raises:
            Conflict: the version is too old; list again.
            KubernetesError: the server hung up; list again.
        """
        query = {"watch": "true", "resourceVersion": version, "labelSelector": labels, "fieldSelector": fields}
        query |= {"timeoutSeconds": str(seconds), "allowWatchBookmarks": "true"}
        arguments: dict[str, Any] = {"timeout": (_REQUEST_SECONDS, seconds + 15), "patience": patience}
        response = self._ask("GET", kind.path(namespace), "watch", kind, namespace, query=query, **arguments)
        try:
            with (cut or Cut()).holding(response):
                yield "OPEN", {}
                for line in _lines(response):
                    event = orjson.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        error = Conflict if status.get("code") == http.client.GONE else KubernetesError
                        raise error(f"the watch of {kind} ended: {status.get('message')}")
                    yield event["type"], event["object"]
        except (urllib3.exceptions.HTTPError, ValueError) as cause:
            raise KubernetesError(f"the watch of {kind} in {namespace} was cut off.") from cause
        finally:
            response.close()

    def follow(
        self,
        kind: Kind,
        namespace: str,
        *,
        labels: str = "",
        fields: str = "",
        seconds: float | None = None,
        cut: Cut | None = None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """All objects that are there, then each change of them, through restarts of the server.

        ADDED, MODIFIED and DELETED come with the object; of one that went away unseen only its metadata are known. OPEN
        says that what came so far is the present, LOST that the server hung up and what comes next may come late.

        Args:
            kind: of what kind.
            namespace: empty: of all namespaces.
            labels: as in ``find``.
            fields: as in ``find``.
            seconds: after which it ends; None: never.
            cut: ends it earlier.

        Raises:
            KubernetesError: the server was away for too long, or refuses.
        """
        cut = cut or Cut()
        known: dict[str, dict[str, Any]] = {}
        version = ""
        until = None if seconds is None else time.monotonic() + seconds

        def left(most: float) -> float:
            return most if until is None else max(0.0, min(most, until - time.monotonic()))

        def seen(what: str, thing: dict[str, Any]) -> tuple[str, dict[str, Any]]:
            if what == "DELETED":
                known.pop(thing["metadata"]["uid"], None)
            else:
                kept = ("namespace", "name", "uid", "labels", "resourceVersion")
                known[thing["metadata"]["uid"]] = {key: thing["metadata"].get(key) for key in kept}
            return what, thing

        while not cut.done and left(1):
            if not version:
                found, version = self.find(kind, namespace, labels=labels, fields=fields, patience=left(60))
                there = {each["metadata"]["uid"] for each in found}
                for metadata in [known[uid] for uid in known.keys() - there]:
                    yield seen("DELETED", {"metadata": metadata | {"resourceVersion": version}})
                for each in found:
                    before = known.get(each["metadata"]["uid"])
                    if before is None or before["resourceVersion"] != each["metadata"]["resourceVersion"]:
                        yield seen("ADDED" if before is None else "MODIFIED", each)
                del found
            arguments: dict[str, Any] = {"labels": labels, "fields": fields, "cut": cut, "patience": left(60)}
            lasts, opened = max(1, int(left(_WATCH_SECONDS))), False
            try:
                for what, thing in self.watch(kind, namespace, version, seconds=lasts, **arguments):
                    if what == "OPEN":
                        opened = True
                        yield what, thing
                    else:
                        version = thing["metadata"]["resourceVersion"]
                        if what != "BOOKMARK":
                            yield seen(what, thing)
                    if not left(1):
                        return
            except KubernetesError as error:
                if cut.done:
                    return
                if isinstance(error, Conflict):  # the version is too old
                    version = ""
                elif not opened:
                    raise
                yield "LOST", {}
                time.sleep(_jitter(0.5))

    def log(
        self,
        namespace: str,
        pod: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        since_time: str | None = None,
        container: str | None = None,
        previous: bool = False,
        timestamps: bool = False,
        cut: Cut | None = None,
    ) -> Iterator[str]:
        """The lines that a pod's container has written.

        Args:
            namespace: of the pod.
            pod: its name.
            follow: go on with new lines until the container ends.
            tail: only so many of the last lines.
            since_time: only lines since then (RFC 3339).
            container: which one of several.
            previous: those of the container before its last restart.
            timestamps: begin each line with its time.
            cut: ends it.

        Raises:
            NotFound: no such pod.
            KubernetesError: it has no log yet, or the server hung up.
        """
        query = {
            "follow": "true" if follow else "",
            "tailLines": "" if tail is None else str(tail),
            "sinceTime": since_time or "",
            "container": container or "",
            "previous": "true" if previous else "",
            "timestamps": "true" if timestamps else "",
        }
        timeout = (_REQUEST_SECONDS, None if follow else _REQUEST_SECONDS)
        path = PODS.path(namespace, pod, "log")
        response = self._ask("GET", path, "get", PODS, namespace, query=query, subresource="log", timeout=timeout)
        try:
            with (cut or Cut()).holding(response):
                for line in _lines(response):
                    yield line.decode(errors="replace")
        except urllib3.exceptions.HTTPError as cause:
            raise KubernetesError(f"the log of pod {pod} was cut off.") from cause
        finally:
            response.close()

    def may(self, verb: str, kind: Kind, namespace: str, *, subresource: str = "") -> bool:
        """Whether the user may do this (SelfSubjectAccessReview, which every user may ask)."""
        attributes = {"namespace": namespace, "verb": verb, "group": kind.group, "resource": kind.plural}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes | ({"subresource": subresource} if subresource else {})},
        }
        review = Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews")
        answer = self._json("POST", review.path(""), "create", review, "", body=body, again=True)
        return bool(answer["status"]["allowed"])

    def versions(self, group: str) -> tuple[str, ...]:
        """Versions of an API group that the server serves; empty if it does not know the group."""
        kind = Kind(group, "", "")
        try:
            answer = self._json("GET", f"/apis/{group}", "get", kind, "")
        except NotFound:
            return ()
        return tuple(each["version"] for each in answer["versions"])

    # Writes

    def create(self, kind: Kind, namespace: str, body: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Create an object; what is there is never changed.

        Args:
            kind: of what kind.
            namespace: where.
            body: the object.
            dry_run: let the server check it, admission included, and keep nothing.

        Raises:
            Conflict: there is one of that name.
        """
        query = {"fieldManager": FIELD_MANAGER, "dryRun": "All" if dry_run else ""}
        return self._json("POST", kind.path(namespace), "create", kind, namespace, query=query, body=body)

    def apply(self, kind: Kind, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object what ``body`` says (server-side apply): created if it is missing, other fields left alone.

        Raises:
            Conflict: somebody else set one of these fields to another value.
        """
        path = kind.path(namespace, body["metadata"]["name"])
        query = {"fieldManager": FIELD_MANAGER}
        form = "application/apply-patch+yaml"
        return self._json("PATCH", path, "patch", kind, namespace, query=query, body=body, form=form, again=True)

    def patch(
        self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any], *, subresource: str = ""
    ) -> dict[str, Any]:
        """Change some fields of an object (JSON merge patch, RFC 7386).

        Raises:
            NotFound: there is no such object.
        """
        path = kind.path(namespace, name, subresource)
        arguments: dict[str, Any] = {"query": {"fieldManager": FIELD_MANAGER}, "body": body, "again": True}
        form = "application/merge-patch+json"
        return self._json("PATCH", path, "patch", kind, namespace, form=form, subresource=subresource, **arguments)

    def delete(self, kind: Kind, namespace: str, name: str, *, uid: str | None = None) -> bool:
        """Ask for the end of an object and of all that it owns; False if there is none.

        Args:
            kind: of what kind.
            namespace: where.
            name: its name.
            uid: only if it is this very one.

        Raises:
            Conflict: one of that name is there, but another.
        """
        body: dict[str, Any] = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            self._json("DELETE", kind.path(namespace, name), "delete", kind, namespace, body=body, again=True)
        except NotFound:
            return False
        return True

    # Flink

    def flink(self, namespace: str, name: str) -> FlinkReads:
        """Flink's REST endpoint of a FlinkDeployment: its service from inside of the cluster, else through the API
        server to the JobManager's pod, as ``kubectl port-forward`` does.
        """
        if self._in_pod:
            return FlinkRest(f"http://{name}-rest.{namespace}:{REST_PORT}", timeout=10)
        return ForwardedFlink(name, lambda: self.forward(namespace, self._job_manager(namespace, name), REST_PORT))

    def _job_manager(self, namespace: str, name: str) -> str:
        pods, _ = self.find(PODS, namespace, labels=f"app={name},component=jobmanager")
        for pod in pods:
            if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]:
                return str(pod["metadata"]["name"])
        raise KubernetesError(f"no JobManager of {name} runs in {namespace}.")

    def forward(self, namespace: str, pod: str, port: int) -> PodPort:
        """A connection to a pod's port.

        Raises:
            KubernetesError: it cannot be connected.
        """
        # The library's own way to do so sends no headers but the token: whoever impersonates would be somebody else.
        made = self._client.configuration
        headers: dict[str, Any] = dict(self._client.default_headers)
        self._client.update_params_for_auth(headers, [], ["BearerToken"])
        checked = {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": made.ssl_ca_cert or certifi.where()}
        tls = checked if made.verify_ssl else {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
        tls |= {"certfile": made.cert_file, "keyfile": made.key_file} if made.cert_file else {}
        tls |= {"server_hostname": made.tls_server_name} if made.tls_server_name else {}
        socket = websocket.WebSocket(sslopt=tls, skip_utf8_validation=True)
        socket.settimeout(_REQUEST_SECONDS)
        url = f"ws{made.host.removeprefix('http')}{PODS.path(namespace, pod, 'portforward')}?ports={port}"
        try:
            socket.connect(url, header=headers, subprotocols=["v4.channel.k8s.io"])
        except websocket.WebSocketBadStatusException as cause:
            if cause.status_code == http.client.FORBIDDEN:
                # The first request of a WebSocket is a GET; from 1.35 on the right to create is asked for too.
                verb = "create" if b"cannot create" in (cause.resp_body or b"") else "get"
                raise _forbidden(verb, PODS, namespace, "portforward") from cause
            raise KubernetesError(f"pod {pod} cannot be reached: HTTP {cause.status_code}.") from cause
        except (OSError, websocket.WebSocketException) as cause:
            raise KubernetesError(f"pod {pod} cannot be reached: {type(cause).__name__}.") from cause
        return PodPort(socket)

    # How it is asked

    def _json(self, method: str, path: str, verb: str, kind: Kind, namespace: str, **arguments: Any) -> dict[str, Any]:
        response = self._ask(method, path, verb, kind, namespace, **arguments)
        try:
            return dict(orjson.loads(response.read()))
        finally:
            response.release_conn()

    def _ask(
        self,
        method: str,
        path: str,
        verb: str,
        kind: Kind,
        namespace: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        form: str = "application/json",
        again: bool = False,
        subresource: str = "",
        timeout: Any = _REQUEST_SECONDS,
        patience: float | None = None,
    ) -> Any:
        waits = self._waits or patience is not None
        patience = _PATIENCE_SECONDS if patience is None else patience
        until = time.monotonic() + patience
        doubted_until = time.monotonic() + min(patience, _DOUBT_SECONDS)
        pause, fresh, certain = 0.1, False, False
        while True:
            try:
                return self._client.call_api(
                    path,
                    method,
                    query_params=[(key, value) for key, value in (query or {}).items() if value],
                    header_params={"Content-Type": form, "Accept": "application/json"},
                    body=body,
                    auth_settings=["BearerToken"],
                    _return_http_data_only=True,
                    _preload_content=False,
                    _request_timeout=timeout,
                )
            except client.ApiException as cause:
                if cause.status == http.client.UNAUTHORIZED and not fresh and self._reload is not None:
                    fresh = True
                    with suppress(ConfigException, OSError):
                        self._client = self._reload()
                    continue
                if cause.status in {http.client.UNAUTHORIZED, http.client.FORBIDDEN} and not certain:
                    # A server that has just started knows no roles and accounts yet, and refuses everybody.
                    certain = self._is_ready() or time.monotonic() > doubted_until
                    time.sleep(0 if certain else _jitter(pause))
                    continue
                # A server that throttles has not done it.
                throttled = cause.status == http.client.TOO_MANY_REQUESTS
                may = waits if throttled else method == "GET" or again
                if not _is_passing(cause) or not may or time.monotonic() > until:
                    if not cause.status and _is_passing(cause):
                        raise self._no_answer(cause) from cause
                    raise _error(cause, verb, kind, namespace, subresource) from cause
                asked = (cause.headers or {}).get("Retry-After", "")
                pause = max(pause, float(asked)) if asked.isdecimal() else pause
            except urllib3.exceptions.HTTPError as cause:
                # A connection that was never made has carried nothing.
                may = method == "GET" or again or isinstance(cause, urllib3.exceptions.NewConnectionError)
                if not may or time.monotonic() > until:
                    raise self._no_answer(cause) from cause
            time.sleep(_jitter(pause))
            pause = min(2 * pause, 5.0)

    def _is_ready(self) -> bool:
        try:
            self._client.call_api("/readyz", "GET", auth_settings=["BearerToken"], _request_timeout=_REQUEST_SECONDS)
        except (client.ApiException, urllib3.exceptions.HTTPError):
            return False
        return True

    def _no_answer(self, cause: Exception) -> KubernetesError:
        return KubernetesError(
            f"the API server {self.server} does not answer: {type(cause).__name__}.",
            hint="Check the cluster, the kubeconfig and its context.",
        )


def _jitter(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _lines(response: Any) -> Iterator[bytes]:
    """Whole lines of a stream as they come."""
    rest = b""
    for chunk in response.stream(amt=None, decode_content=False):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _is_passing(cause: client.ApiException) -> bool:
    """Whether the same request may succeed later."""
    if cause.status:
        return cause.status in _AGAIN
    # The library's word for all that TLS reports: a server that hangs up, or one that is not to be trusted.
    reason = cause.__context__
    while reason is not None and not isinstance(reason, ssl.SSLCertVerificationError):
        reason = reason.__cause__ or reason.__context__
    return reason is None


def _forbidden(verb: str, kind: Kind, namespace: str, subresource: str = "") -> Forbidden:
    what = f"{kind}/{subresource}" if subresource else str(kind)
    where = f"in namespace {namespace}" if namespace else "in all namespaces"
    return Forbidden(
        f"not allowed to {verb} {what} {where}.",
        hint=f"Ask for a Role with verb {verb} on {what} (images/deploy has one), or act as another user: --as, in a "
        "pipeline --k8s_impersonate.",
    )


def _error(cause: client.ApiException, verb: str, kind: Kind, namespace: str, subresource: str) -> BeamK8sError:
    try:
        message = str(json.loads(cause.body)["message"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {cause.status}" if cause.status else str(cause.reason)
    if cause.status == http.client.FORBIDDEN:
        if "exceeded quota" in message or "violates PodSecurity" in message or "admission" in message:
            return KubernetesError(f"{kind} in {namespace}: {message}")
        return _forbidden(verb, kind, namespace, subresource)
    if cause.status == http.client.UNAUTHORIZED:
        return KubernetesError(
            "the API server does not know who asks: the credentials are missing or have expired.",
            hint="Log in again, as for kubectl.",
        )
    if cause.status == http.client.NOT_FOUND:
        return NotFound(message)
    if cause.status in {http.client.CONFLICT, http.client.GONE}:
        return Conflict(message)
    return KubernetesError(f"the API server refused to {verb} {kind} in {namespace}: {message}")


def _pod_namespace() -> str:
    return (_IN_POD / "namespace").read_text().strip()


def _context_namespace(kubeconfig: str | None, context: str | None) -> str:
    contexts, current = config.list_kube_config_contexts(config_file=kubeconfig)
    chosen = next((each for each in contexts if each["name"] == context), current)
    return str(chosen["context"].get("namespace") or "default")
