"""The ``kubernetes`` target: the job's image, its FlinkDeployment and Secret, and the job as the cluster shows it."""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from beam_k8s import graph
from beam_k8s.errors import BeamK8sError, ConfigError, Conflict, ImageError, KubernetesError, NotFound
from beam_k8s.flink_conf import SAVEPOINT_ON_DELETION
from beam_k8s.launcher import doctor
from beam_k8s.launcher.docker_builder import DockerBuilder
from beam_k8s.launcher.image import RegistryBuilder, build_job_image
from beam_k8s.launcher.kube import DEPLOYMENTS, EVENTS, LEASES, PODS, SECRETS, Kube, owner_of
from beam_k8s.launcher.kubernetes_workers import KubernetesWorkers
from beam_k8s.launcher.leaks import leak_errors
from beam_k8s.launcher.leases import new_identity
from beam_k8s.launcher.oci import Registry, parse_reference
from beam_k8s.launcher.pod_logs import is_later, of_worker
from beam_k8s.launcher.port_forward import ForwardedFlink
from beam_k8s.launcher.progress import Sending, report
from beam_k8s.launcher.scaled_job import ScaledJob
from beam_k8s.launcher.service import KubernetesOperatorService
from beam_k8s.launcher.staging import PIPELINE_FILE, options_json, write_job
from beam_k8s.launcher.target import Observation
from beam_k8s.names import JOB_ID_LABEL, OUT_OF_MEMORY, SCALED_ANNOTATION
from beam_k8s.pods import Trouble, deaths, trouble_of_events, trouble_of_pods
from beam_k8s.spec import HARNESS, DeploymentRequest, build_deployment
from beam_k8s.states import TERMINAL
from beam_k8s.status import is_ours, job_status

if TYPE_CHECKING:
    from beam_k8s.launcher.flink_rest import FlinkReads
    from beam_k8s.launcher.plan import SubmitPlan
    from beam_k8s.settings import Settings
    from beam_k8s.spec import Manifests
    from beam_k8s.status import JobStatus

__all__ = ["KubernetesJob", "KubernetesTarget", "PodLogs"]

_UNBUILT = "sha256:" + 64 * "0"
"""Stands for the digest of an image that is not built yet."""
_GONE_SECONDS = 120
"""Longest wait for the end of a job's objects."""
_OPERATOR_SECONDS = 30
"""After which an operator that has not even looked at a FlinkDeployment is worth a word."""
_REFUSED_SECONDS = 20
"""How long the operator may say that it cannot deploy a job: its next try may succeed."""
_LOOK_SECONDS = 10
"""Between two looks at the pods of a job that runs."""
_LOG_PODS = 8
"""Pods whose workers' lines are shown; all others are for `beam-k8s logs` and what the cluster collects."""


class KubernetesTarget:
    """Runs jobs on a Kubernetes cluster through the Flink Kubernetes operator."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._job_id = settings.job_id or secrets.token_hex(16)
        self._scratch: Path | None = None
        self._began = time.monotonic()

    @cached_property
    def _kube(self) -> Kube:
        """Connected when it is first needed: building an image needs no cluster."""
        return Kube.connect(
            kubeconfig=self._settings.kubeconfig,
            context=self._settings.context,
            namespace=self._settings.namespace,
            impersonate=self._settings.impersonate,
        )

    @property
    def _namespace(self) -> str:
        return self._kube.namespace

    @property
    def global_name(self) -> str | None:
        """See Target."""
        try:
            return f"{self._namespace}/{self._settings.job_name}"
        except BeamK8sError:  # an image is only built, or preflight tells
            return None

    def preflight(self) -> list[BeamK8sError]:
        """See Target."""
        return [*self._image_errors(), *([] if self._settings.build_only else self._cluster_errors())]

    def _image_errors(self) -> list[BeamK8sError]:
        errors: list[BeamK8sError] = []
        for name in ("image", "image_repository", "runtime_image"):
            if (given := getattr(self._settings, name)) is not None:
                try:
                    parse_reference(f"--k8s_{name}", given)
                except ConfigError as error:
                    errors.append(error)
        return errors

    def _cluster_errors(self) -> list[BeamK8sError]:
        errors: list[BeamK8sError] = []
        try:
            scales = [LEASES] if self._settings.autoscaler_mode == "on" and not self._settings.detach else []
            errors += doctor.preflight(self._kube, self.draft().deployment.document(), scales)
        except ConfigError as error:
            errors.append(error)
        except KubernetesError as error:  # nothing else would be answered either
            return [error]
        try:
            self._check_name()
        except BeamK8sError as error:
            errors.append(error)
        return errors

    def draft(self) -> Manifests:
        """The job's objects as far as they are known without its pipeline and its image.

        Raises:
            ConfigError: with everything that is wrong.
        """
        return build_deployment(self._settings, self._request(self._unbuilt(), {}, "{}"))

    def harness_command(self) -> str:
        """See Target. The harness has the environment of its TaskManager's container."""
        return HARNESS

    @property
    def staged(self) -> Path:
        """See Target."""
        assert self._scratch is not None  # noqa: S101 - prepare comes first
        return self._scratch / "staged"

    def prepare(self) -> None:
        """See Target."""
        self._scratch = Path(tempfile.mkdtemp(prefix="beam-k8s-"))
        for folder in ("staged", "job", "layers"):
            (self._scratch / folder).mkdir()

    def remove(self) -> None:
        """See Target."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def dry_run(self, plan: SubmitPlan) -> str:
        """See Target."""
        settings = self._settings
        if settings.output == "yaml" and settings.image is None:
            raise ConfigError(
                "--k8s_output=yaml: a FlinkDeployment names its image by digest, and there is no image yet.",
                hint="Build it with `beam-k8s build`, and name what that prints with --k8s_image.",
            )
        image = self._given_image(settings.image) if settings.output == "yaml" and settings.image else self._unbuilt()
        manifests = self._manifests(plan, image)
        document = manifests.deployment.document()
        if settings.dry_run == "server":
            for kind, body in ((DEPLOYMENTS, document), (SECRETS, manifests.options)):
                # What is left of an ended job may still have the name.
                metadata = {**body["metadata"], "generateName": f"{body['metadata']['name']}-"}
                del metadata["name"]
                self._kube.create(kind, self._namespace, {**body, "metadata": metadata}, dry_run=True)
        if settings.output == "yaml":
            # Without what they share, as `kubectl get -o yaml` writes it.
            return str(yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False)).rstrip()
        return str(plan)

    def deploy(self, plan: SubmitPlan) -> KubernetesJob:
        """See Target."""
        stages = {"plan": time.monotonic() - self._began}
        clock = time.monotonic()
        try:
            self._clear_name()
            settings = self._settings
            image = self._given_image(settings.image) if settings.image else self._build(plan)
            manifests = self._manifests(plan, image)
        finally:
            self.remove()
        stages["image"] = time.monotonic() - clock
        uid = self._create(manifests)
        report(f"{settings.job_name} is a FlinkDeployment of namespace {self._namespace} now")
        return KubernetesJob(
            self._kube, self._namespace, settings, uid=uid, job_id=self._job_id, began=self._began, stages=stages
        )

    def build(self, plan: SubmitPlan) -> str:
        """Build and push the job's image; returns its name by digest."""
        try:
            return self._build(plan)
        finally:
            self.remove()

    # The image

    def _unbuilt(self) -> str:
        return f"{self._settings.image_repository or 'image'}@{_UNBUILT}"

    def _registry(self, host: str) -> Registry:
        return Registry(host, plain_http=True if self._settings.insecure_registry else None)

    def _given_image(self, given: str) -> str:
        """The image by digest."""
        reference = parse_reference("--k8s_image", given)
        digest = reference.digest or self._registry(reference.registry).digest_of(reference)
        if digest is None:
            raise ImageError(f"--k8s_image={given} does not exist.", hint="Build it with `beam-k8s build`.")
        return f"{reference.registry}/{reference.repository}@{digest}"

    def _build(self, plan: SubmitPlan) -> str:
        assert self._scratch is not None  # noqa: S101 - prepare comes first
        settings = self._settings
        base = parse_reference("--k8s_runtime_image", settings.runtime_image or "")
        repository = parse_reference("--k8s_image_repository", settings.image_repository or "")
        write_job(plan, self._scratch / "job")
        code = [path.read_bytes() for path in (self.staged.glob("*")) if path.is_file()]
        if errors := leak_errors(plan.harness_options, [*code, (self._scratch / "job" / PIPELINE_FILE).read_bytes()]):
            raise ConfigError.of_all(errors)

        def registry(host: str) -> Registry:
            return self._registry(host) if host == repository.registry else Registry(host)

        builder = DockerBuilder() if settings.image_builder == "docker" else RegistryBuilder(registry)
        clock = time.monotonic()
        image = build_job_image(
            builder,
            base=base,
            repository=repository,
            name=settings.job_name,
            staged=self.staged,
            job=self._scratch / "job",
            scratch=self._scratch / "layers",
            progress=Sending(),
        )
        name = f"{repository.registry}/{repository.repository}"
        report(f"image {name}:{image.reference.tag}: {image.sent:,} bytes pushed in {time.monotonic() - clock:.1f} s")
        return f"{name}@{image.reference.digest}"

    # The objects

    def _request(self, image: str, flink_conf: dict[str, str], options: str) -> DeploymentRequest:
        settings = self._settings
        return DeploymentRequest(
            namespace=self._namespace,
            job_id=self._job_id,
            image=image,
            flink_conf=flink_conf,
            options=options,
            service_account=settings.service_account,
            storage_claim=settings.storage_claim,
            tenant=settings.tenant,
            labels=settings.labels,
            cpu=settings.worker_cpu,
        )

    def _manifests(self, plan: SubmitPlan, image: str) -> Manifests:
        request = self._request(image, plan.flink_conf, options_json(plan.harness_options))
        scaled = ScaledJob.of(self._settings, graph.kafka_sources(plan.pipeline))
        if scaled is not None:
            request = replace(request, annotations={SCALED_ANNOTATION: scaled.text()})
        return build_deployment(self._settings, request)

    def _check_name(self) -> dict[str, Any] | None:
        """The FlinkDeployment that has the job's name and may be replaced, because its job has ended.

        Raises:
            ConfigError: the name is taken.
        """
        name = self._settings.job_name
        there = self._kube.get(DEPLOYMENTS, self._namespace, name)
        if there is None:
            return None
        where = f"--job_name={name}: in namespace {self._namespace}"
        if not is_ours(there):
            raise ConfigError(
                f"{where} there is a FlinkDeployment of that name which beam_k8s has not made.",
                hint="Use another name: it is never changed from here.",
            )
        state = job_status(there).state
        if state not in TERMINAL:
            raise ConfigError(
                f"{where} a job of that name is {state}.",
                hint=f"Use another name, or stop it, with a savepoint: beam-k8s cancel {name} -n {self._namespace}",
            )
        return there

    def _clear_name(self) -> None:
        """Remove what is left of an ended job of that name."""
        if (there := self._check_name()) is not None:
            _remove(self._kube, self._namespace, self._settings.job_name, there["metadata"]["uid"])

    def _create(self, manifests: Manifests) -> str:
        """Create the objects, or none of them; the uid of the FlinkDeployment."""
        document = manifests.deployment.document()
        name = self._settings.job_name
        try:
            created = self._kube.create(DEPLOYMENTS, self._namespace, document)
        except Conflict as cause:
            # An answer that got lost, and we asked again?
            there = self._kube.get(DEPLOYMENTS, self._namespace, name) or {"metadata": {}}
            if (there["metadata"].get("labels") or {}).get(JOB_ID_LABEL) != self._job_id:
                raise ConfigError(
                    f"--job_name={name}: somebody else has just started a job of that name.", hint="Use another name."
                ) from cause
            created = there
        except NotFound as cause:
            raise KubernetesError(
                f"the cluster does not know FlinkDeployments ({DEPLOYMENTS}/{DEPLOYMENTS.version}).",
                hint="Install the Flink Kubernetes operator; `beam-k8s doctor` says what is missing.",
            ) from cause
        uid = str(created["metadata"]["uid"])
        options = dict(manifests.options)
        options["metadata"] = options["metadata"] | {"ownerReferences": [owner_of(name, uid)]}
        try:
            self._kube.apply(SECRETS, self._namespace, options)
        except BaseException:
            _remove(self._kube, self._namespace, name, uid)
            raise
        return uid


def _remove(kube: Kube, namespace: str, name: str, uid: str) -> None:
    """Remove a job that does not run, without a savepoint, and wait until its FlinkDeployment is gone."""
    with suppress(NotFound, Conflict):
        conf = {SAVEPOINT_ON_DELETION: "false"}
        kube.patch(DEPLOYMENTS, namespace, name, {"spec": {"flinkConfiguration": conf}})
        kube.delete(DEPLOYMENTS, namespace, name, uid=uid)
    until = time.monotonic() + _GONE_SECONDS
    while (there := kube.get(DEPLOYMENTS, namespace, name)) is not None and there["metadata"]["uid"] == uid:
        if time.monotonic() > until:
            raise KubernetesError(
                f"FlinkDeployment {name} in {namespace} is still being deleted after {_GONE_SECONDS} s.",
                hint="Its finalizer is the operator's: check that one runs and watches the namespace.",
            )
        time.sleep(0.5)


class KubernetesJob:
    """A job on Kubernetes; see Job."""

    poll_seconds = 1.0

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        settings: Settings,
        *,
        uid: str,
        job_id: str,
        began: float,
        stages: dict[str, float],
    ) -> None:
        self.name = settings.job_name
        self.namespace = namespace
        self.logs = PodLogs(kube, namespace, job_id)
        self._kube = kube
        self._service = KubernetesOperatorService(kube, cache=False)
        self._settings = settings
        self._uid = uid
        self._labels = f"{JOB_ID_LABEL}={job_id}"
        self._flink: FlinkReads | None = None
        self._flink_lock = threading.Lock()
        """Whoever waits for the job asks for it, and whoever watches it."""
        self._flink_job_id = ""
        self._began, self._stages = began, stages
        self._submitted = self._reached = time.monotonic()
        self._ran = False
        self._final: Observation | None = None
        self._deaths: dict[tuple[str, int], str] = {}
        self._looked = 0.0

    @property
    def job_id(self) -> str:
        """See Job."""
        return self._flink_job_id

    def observe(self) -> Observation:
        """See Job."""
        if self._final is not None:
            return self._final
        try:
            found = self._kube.get(DEPLOYMENTS, self.namespace, self.name)
        except KubernetesError as error:
            # It goes on whether or not the API server answers.
            return Observation("RUNNING" if self._ran else "STARTING", error.message)
        if found is None or found["metadata"]["uid"] != self._uid:
            self._final = Observation("CANCELLED", "its FlinkDeployment was deleted")
            return self._final
        status = job_status(found)
        self._flink_job_id = status.flink_job_id or self._flink_job_id
        if not self._ran:
            self._note_stage(status)
        if status.state == "STARTING" or (status.state == "FAILED" and not status.flink_state):
            return self._starting(status)
        if status.state == "RUNNING" and not self._ran:
            self._report_start()
        self._ran = True
        if status.state == "FAILED":
            self._look_at_pods()
            return Observation("FAILED", self._last_death())
        if status.state == "RUNNING" and time.monotonic() - self._looked > _LOOK_SECONDS:
            self._look_at_pods()
        return Observation(status.state, status.reason)

    def _starting(self, status: JobStatus) -> Observation:
        if self._ran:
            return Observation("STARTING", status.reason)
        waited = time.monotonic() - self._submitted
        if status.state == "FAILED":
            trouble = Trouble(f"{status.reason}: {status.error}", final=waited > _REFUSED_SECONDS)
        elif not status.lifecycle and waited > _OPERATOR_SECONDS:
            trouble = Trouble(
                f"no Flink Kubernetes operator has looked at it for {waited:.0f} s",
                "Check that the operator runs and watches the namespace: beam-k8s doctor",
            )
        else:
            trouble = self._trouble(status.created) or Trouble(status.reason)
        if not trouble.final and waited <= self._settings.start_timeout:
            return Observation("STARTING", trouble.message)
        message = "\n  ".join(filter(None, (trouble.message, trouble.hint)))
        if not trouble.final:
            message = f"it did not start within --k8s_start_timeout={self._settings.start_timeout} s: {message}"
        try:
            _remove(self._kube, self.namespace, self.name, self._uid)
        except BeamK8sError as error:
            message = f"{message}\n  and it could not be removed: {error.message}"
        self._final = Observation("FAILED", message)
        return self._final

    def _trouble(self, created: str) -> Trouble | None:
        with suppress(KubernetesError):
            pods, _ = self._kube.find(PODS, self.namespace, labels=self._labels)
            if trouble := trouble_of_pods(pods):
                return trouble
            events, _ = self._kube.find(EVENTS, self.namespace, fields="reason=FailedCreate")
            return trouble_of_events(events, self.name, created)
        return None

    def _look_at_pods(self) -> None:
        """Tell of each container that has died, once."""
        self._looked = time.monotonic()
        with suppress(KubernetesError):
            pods, _ = self._kube.find(PODS, self.namespace, labels=self._labels)
            for key, died in deaths(pods).items():
                if key not in self._deaths:
                    self._deaths[key] = died
                    report(f"{self.name}: pod {key[0]}: {died}")

    def _last_death(self) -> str:
        self.logs.show()
        if self.logs.out_of_memory:
            return self.logs.out_of_memory
        if not self._deaths:
            return ""
        (pod, _), died = list(self._deaths.items())[-1]
        return f"pod {pod}: {died}"

    def _report_start(self) -> None:
        parts = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self._stages.items())
        report(f"{self.name} runs {time.monotonic() - self._began:.1f} s after the command ({parts})")

    def _note_stage(self, status: JobStatus) -> None:
        """How long each stage of the start took, as far as it has come."""
        reached = {
            "operator": bool(status.lifecycle),
            "JobManager": status.job_manager == "READY",
            "job": status.flink_state == "RUNNING",
        }
        for stage, done in reached.items():
            if done and stage not in self._stages:
                now = time.monotonic()
                self._stages[stage], self._reached = now - self._reached, now

    def flink(self) -> FlinkReads | None:
        """See Job."""
        if self._final is not None or not self._flink_job_id:
            return None
        with self._flink_lock:
            if self._flink is None:
                self._flink = self._kube.flink(self.namespace, self.name)
            return self._flink

    def workers(self) -> KubernetesWorkers:
        """See Job."""
        return KubernetesWorkers(self._service, self.namespace, self.name, self.flink, new_identity())

    @property
    def scaled_by(self) -> str:
        """See Job."""
        return "Only `beam-k8s autoscale` scales it now, where that runs."

    def scale(self, workers: int) -> None:
        """See Job."""
        self._service.update_replica(self.namespace, self.name, workers)

    def stop(self) -> None:
        """See Job. A streaming job that runs leaves a savepoint."""
        try:
            last = self._service.delete_job_by_name(self.namespace, self.name, savepoint=self._settings.streaming)
        except NotFound:
            return
        if last.savepoint:
            report(f"{self.name} has left a savepoint: --savepoint_path={last.savepoint} goes on from it")

    def detach(self) -> str:
        """See Job. Nothing of it depends on this process."""
        settings = self._settings
        given = {"context": settings.context, "kubeconfig": settings.kubeconfig, "as": settings.impersonate}
        flags = "".join(f" --{flag}={shlex.quote(value)}" for flag, value in given.items() if value)
        return f"beam-k8s cancel {self.name} -n {self.namespace}{flags}"

    def close(self) -> None:
        """See Job. The FlinkDeployment of an ended job stays, as its record."""
        if isinstance(self._flink, ForwardedFlink):
            self._flink.close()
        self._kube.close()


class PodLogs:
    """Brings what the Python workers in a job's pods write to this terminal, as it comes."""

    def __init__(self, kube: Kube, namespace: str, job_id: str) -> None:
        self._kube, self._namespace = kube, namespace
        self._labels = f"{JOB_ID_LABEL}={job_id},component=taskmanager"
        self._seen: dict[str, str] = {}
        """Pod -> time of the last line that was looked at (RFC 3339)."""
        self._more = False
        self.out_of_memory = ""
        """The last that was said of a worker which the kernel killed for its memory."""

    def show(self) -> None:
        """See Logs."""
        with suppress(KubernetesError):
            pods, _ = self._kube.find(PODS, self._namespace, labels=self._labels)
            running = sorted(pod["metadata"]["name"] for pod in pods if pod["status"].get("phase") != "Pending")
            if len(running) > _LOG_PODS and not self._more:
                self._more = True
                report(f"showing what {_LOG_PODS} of {len(running)} workers write; all: beam-k8s logs")
            for pod in running[:_LOG_PODS]:
                for line in self._new_lines(pod):
                    print(f"[worker {pod}] {line}", file=sys.stderr, flush=True)

    def _new_lines(self, pod: str) -> list[str]:
        last = self._seen.get(pod, "")
        lines = []
        with suppress(KubernetesError, NotFound):
            for stamped in self._kube.log(self._namespace, pod, since_time=last or None, timestamps=True):
                stamp, _, line = stamped.partition(" ")
                if not is_later(stamp, last):
                    continue
                self._seen[pod] = stamp
                if (own := of_worker(line)) is not None:
                    lines.append(own)
                    if own.startswith(OUT_OF_MEMORY):
                        self.out_of_memory = f"a Python worker of pod {pod} {own}"
        return lines
