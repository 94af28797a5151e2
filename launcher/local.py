"""The ``local`` target: the same jar, Flink configuration and Python harness as on Kubernetes, as processes here.

A job gets a Flink cluster of its own (application mode, reactive: it always uses all TaskManagers there are), or runs
in a session cluster given by ``--flink_master``, which starts it in 2 s instead of 10. Everything listens on loopback
only. ``supervisor`` owns the processes; all of a run's files stand in one folder.
"""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import beam_k8s
from beam_k8s.errors import BeamK8sError, ConfigError, FlinkError, LocalClusterError
from beam_k8s.flink_conf import TaskManagerMemory, cluster_conf, java_options, log4j_properties, reactive_conf
from beam_k8s.launcher import flink_rest, supervisor
from beam_k8s.launcher.control import Control
from beam_k8s.launcher.flink_rest import ArchivedFlink, FlinkReads, FlinkRest
from beam_k8s.launcher.local_workers import LocalWorkers
from beam_k8s.launcher.progress import report
from beam_k8s.launcher.staging import IMPORT_PATH, PIPELINE_FILE, TRANSLATOR_FILE, options_json, write_job
from beam_k8s.launcher.target import Observation
from beam_k8s.spec import JOB_MAIN
from beam_k8s.states import TERMINAL, pipeline_state
from beam_k8s.versions import JAVA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from beam_k8s.launcher.plan import SubmitPlan
    from beam_k8s.settings import Settings

__all__ = ["LocalTarget", "SessionCluster", "preflight", "runner_jar", "running_jobs"]

_APPLICATION = "org.apache.flink.container.entrypoint.StandaloneApplicationClusterEntryPoint"
_SESSION = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_FREE_BYTES = 256 << 20
"""What a run may need at once for logs, shuffles and checkpoints before it even works."""
_HARNESS_FILE = "harness"
_WARM = '"$0" --warm=$$ </dev/null >/dev/null 2>&1 & exec "$@"'
"""For a shell, which becomes the TaskManager: Beam is imported while that starts."""
_OPTIONS_FILE = "job/options.json"
_SESSION_FILE = "session.json"
"""In the run directory of a job in a session cluster: where it runs."""
_START_SECONDS = 120
_END_SECONDS = 30


# Before anything is created


def preflight(settings: Settings) -> list[BeamK8sError]:
    """All that would keep the local target from working, found without starting anything."""
    errors: list[BeamK8sError] = []
    for check in (_check_java, _check_jars, _check_conf, _check_ports, _check_folders, _check_session):
        try:
            check(settings)
        except BeamK8sError as error:
            errors.append(error)
    return errors


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None:
        where = f"JAVA_HOME={home} has no bin/java" if home else "no java on the PATH"
        raise ConfigError(
            f"JDK missing: {where}.",
            hint=f"Install JDK {JAVA} (Debian: apt-get install openjdk-{JAVA}-jdk-headless) or set JAVA_HOME.",
        )
    return java


def _check_java(_: Settings) -> None:
    java = _java()
    text = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', text)
    if version is None or int(version[1]) < JAVA:
        found = version[1] if version else "unknown"
        raise ConfigError(
            f"JDK too old: {java} is Java {found}, this release needs {JAVA}.",
            hint=f"Install JDK {JAVA} (Debian: apt-get install openjdk-{JAVA}-jdk-headless) or point JAVA_HOME at it.",
        )


def _flink_lib() -> Path:
    spec = find_spec("pyflink")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    # Another folder pyflink/lib on the import path, as of a PyFlink beside this package, may hold anything.
    for folder in folders:
        if any((Path(folder) / "lib").glob("flink-dist-*.jar")):
            return Path(folder) / "lib"
    raise LocalClusterError("Flink's jars are not installed.", hint="pip install apache-flink-libraries")


def runner_jar() -> Path:
    """The Java part, as this package brings it along."""
    jar = Path(beam_k8s.__file__).parent / "jars" / "beam-k8s-runner.jar"
    if not jar.is_file():
        raise LocalClusterError(f"the runner jar {jar} is missing.", hint="In a source checkout: make jar")
    return jar


def _check_jars(_: Settings) -> None:
    _flink_lib()
    runner_jar()


def _check_conf(settings: Settings) -> None:
    key = "jobmanager.archive.fs.dir"
    if key in settings.flink_conf:
        raise ConfigError(
            f"--k8s_flink_conf={key}={settings.flink_conf[key]} is refused: the local target looks in a folder of its "
            "own for what Flink leaves of an ended job.",
            hint="Leave it out.",
        )
    for role in ("taskmanager", "jobmanager"):
        _memory_flags(role, _memory_conf(settings.flink_conf))


def _check_ports(settings: Settings) -> None:
    for key in ("rest.port", "blob.server.port"):
        port = settings.flink_conf.get(key, "0")
        if not port.isdecimal() or int(port) > 65535:
            raise ConfigError(f"--k8s_flink_conf={key}={port} is not a port.", hint="Use 1 to 65535.")
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", int(port)))
            except OSError as cause:
                raise ConfigError(
                    f"--k8s_flink_conf={key}={port}: the port is taken on 127.0.0.1 ({cause.strerror}).",
                    hint="Use another, or leave it out: a free one is chosen.",
                ) from cause


def _check_folders(settings: Settings) -> None:
    errors: list[BeamK8sError] = []
    folder = Path(settings.run_dir or _runs()).absolute()
    if settings.run_dir and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        errors.append(
            ConfigError(
                f"--k8s_run_dir={settings.run_dir} exists and is not an empty folder.", hint="Name a new folder."
            )
        )
    for flag, path in (("--k8s_run_dir", folder), ("--k8s_storage", _local_path(settings.storage))):
        if path is None:
            continue
        parent = next(p for p in (path, *path.parents) if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            errors.append(ConfigError(f"{flag}={path}: {parent} is not writable.", hint="Name another folder."))
        elif (free := shutil.disk_usage(parent).free) < _FREE_BYTES:
            errors.append(
                ConfigError(
                    f"{flag}={path}: the disk is full, {free >> 20} MiB are free and {_FREE_BYTES >> 20} needed.",
                    hint=f"Free some room, or name a folder on another disk with {flag}.",
                )
            )
    if settings.savepoint_path:
        try:
            _restore_path(settings.savepoint_path)
        except ConfigError as error:
            errors.append(error)
    if any(name == settings.job_name for name, _ in running_jobs()):
        errors.append(
            ConfigError(
                f"--job_name={settings.job_name}: a job of this name runs here already.",
                hint=f"Use another name, or stop it: beam-k8s cancel {settings.job_name}",
            )
        )
    if errors:
        raise ConfigError.of_all(errors)


def _check_session(settings: Settings) -> None:
    if settings.flink_master is None:
        return
    url = _session_url(settings.flink_master)
    try:
        FlinkRest(url, timeout=10).get("/overview")
    except FlinkError as cause:
        raise ConfigError(
            f"--flink_master={settings.flink_master}: no Flink answers at {url}.",
            hint="Start one, or leave the flag out: the job then gets a cluster of its own.",
        ) from cause


def _session_url(master: str) -> str:
    url = master if "://" in master else f"http://{master}"
    host = re.sub(r"^https?://|:\d+.*$", "", url)
    if host not in {"127.0.0.1", "localhost", "[::1]"}:
        raise ConfigError(
            f"--flink_master={master} is not on this machine.",
            hint="The local target hands files over: only 127.0.0.1:PORT can be given.",
        )
    return url.rstrip("/")


def _local_path(url: str | None) -> Path | None:
    """The path of a file:// URL or plain path; None for other schemes."""
    if url is None:
        return None
    if url.startswith("file:"):
        return Path(re.sub(r"^file:(//)?", "", url))
    return None if "://" in url else Path(url).absolute()


def _restore_path(given: str) -> str:
    """The checkpoint to restore: the given one, or the newest below a given local folder."""
    folder = _local_path(given)
    if folder is None:
        return given
    newest = supervisor.newest_checkpoint(folder)
    if newest is None:
        raise ConfigError(
            f"--savepoint_path={given} holds no completed checkpoint or savepoint.",
            hint="Name the folder with a _metadata file in it, or one above it.",
        )
    return f"file://{newest}"


# Runs


def _runs() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "beam_k8s" / "runs"


def running_jobs() -> list[tuple[str, Path]]:
    """Name and run directory of each job that runs on this machine for this user."""
    runs = _runs()
    if not runs.is_dir():
        return []
    return [(entry.name.rpartition("-")[0], entry.resolve()) for entry in sorted(runs.iterdir()) if _runs_there(entry)]


def _runs_there(run_dir: Path) -> bool:
    if (session := _Session.of_run(run_dir)) is not None:
        return session.is_running()
    try:
        with closing(Control.of_run(run_dir)):
            return True
    except OSError:  # no socket, or one that a supervisor left that was killed
        return False


class _Cluster:
    """A supervised Flink cluster in a run directory."""

    def __init__(
        self,
        run_dir: Path,
        conf: dict[str, str],
        main: list[str],
        *,
        workers: int,
        jars: Sequence[Path] | None = None,
        **spec: Any,
    ) -> None:
        self.run_dir = run_dir
        self._jars = [runner_jar()] if jars is None else jars
        self.rest = FlinkRest(f"http://127.0.0.1:{conf['rest.port']}", timeout=10)
        (run_dir / "conf").mkdir()
        text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in sorted(conf.items()))
        _write_private(run_dir / "conf" / "config.yaml", text)  # may hold the storage's credentials
        (run_dir / "conf" / "log4j.properties").write_text(log4j_properties())
        # The JobManager compiles little and lives for one job: the cheap compiler starts it faster.
        job_manager = [*_memory_flags("jobmanager", conf), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        spec |= {
            "jobmanager": self._jvm(job_manager, main),
            "taskmanager": [
                *("/bin/sh", "-c", _WARM, str(run_dir / _HARNESS_FILE)),
                *self._jvm(_memory_flags("taskmanager", conf), [_TASK_MANAGER, "-D", "taskmanager.resource-id=@NAME@"]),
            ],
            "workers": workers,
            "secret_files": [_OPTIONS_FILE, "conf/config.yaml"],
        }
        (run_dir / "cluster.json").write_text(json.dumps(spec))
        environment = {
            **os.environ,
            "FLINK_CONF_DIR": str(run_dir / "conf"),
            "FLINK_PLUGINS_DIR": str(_flink_lib().parent / "plugins"),
        }
        near, far = socket.socketpair()
        self.control = Control(near)
        with far, (run_dir / "logs" / "supervisor.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", supervisor.__name__, str(run_dir), str(far.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=[far.fileno()],
                start_new_session=True,
            )
        try:
            self.control.ask(op="status")  # answered when it has started the processes
        except LocalClusterError as cause:
            self.control.close()  # it ends, if it is there
            self.process.wait()
            text = (run_dir / "logs" / "supervisor.log").read_text()
            raise LocalClusterError(f"the supervisor did not start:\n{text}") from cause

    def _jvm(self, flags: list[str], main: list[str]) -> list[str]:
        conf = str(self.run_dir / "conf")
        lib = _flink_lib()
        jars = [*sorted(lib.glob("log4j-*.jar")), *lib.glob("flink-dist-*.jar"), *self._jars]
        own = ["--configDir", conf]
        return [
            _java(),
            *flags,
            *java_options(),
            f"-Dlog.file={self.run_dir}/logs/@NAME@.log",
            f"-Dlog4j.configurationFile=file:{conf}/log4j.properties",
            "-cp",
            os.pathsep.join(str(jar) for jar in jars),
            main[0],
            *own,
            *main[1:],
        ]

    def alive(self) -> bool:
        return self.process.poll() is None

    def wait(self) -> None:
        """Wait for the cluster of an ended job to end; not for ever, for it may hang."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=_END_SECONDS)

    def stop(self) -> None:
        if self.alive():
            with suppress(LocalClusterError):
                self.control.ask(op="stop")
            self.process.wait()
        self.control.close()

    def error(self) -> str:
        """Why the cluster gave up, if it did."""
        file = self.run_dir / supervisor.ERROR_FILE
        return file.read_text() if file.exists() else ""

    def was_stopped(self) -> bool:
        """Whether somebody asked for the end of the cluster, and with it of its job."""
        return (self.run_dir / supervisor.STOPPED_FILE).exists()


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _free_ports(count: int) -> list[int]:
    """Free TCP ports below the range from which the system takes ports of outgoing connections."""
    free: list[int] = []
    candidates = random.Random()  # noqa: S311 - not a secret
    while len(free) < count:
        port = candidates.randrange(20_000, 32_000)
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            free.append(port)
    return free


def _cluster_conf(run_dir: Path, storage: str, given: Mapping[str, str]) -> dict[str, str]:
    """Flink's configuration: what this target must add, under what is given."""
    rpc, rest = _free_ports(2)
    return {
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.bind-host": "127.0.0.1",
        "jobmanager.rpc.port": str(rpc),
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.port": str(rest),
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "io.tmp.dirs": str(run_dir / "tmp"),
        "web.tmpdir": str(run_dir / "tmp"),
        "state.checkpoints.dir": storage,
        "state.savepoints.dir": storage,
        "jobmanager.archive.fs.dir": f"file://{run_dir}/archive",
        "metrics.fetcher.update-interval": "1000",
        # All of it shares one machine with what else runs there: a slow answer is no failure.
        "pekko.ask.timeout": "1 min",
        "taskmanager.cpu.cores": "1",  # Flink's scripts would ask the system; on one machine it decides nothing
        **cluster_conf(),
        **given,
        **_memory_conf(given),
    }


def _memory_conf(given: Mapping[str, str]) -> dict[str, str]:
    """The memory settings: ours, under the given ones of both roles."""
    conf = TaskManagerMemory().conf()
    if {"taskmanager.memory.process.size", "taskmanager.memory.flink.size"} & given.keys():
        del conf["taskmanager.memory.task.heap.size"]  # it is what the other parts leave of the total
    return conf | {key: value for key, value in given.items() if ".memory." in key}


def _memory_flags(role: str, conf: Mapping[str, str]) -> list[str]:
    """The memory flags of a JVM: known, or by Flink's own reckoning where the user gave another size.

    Args:
        role: ``taskmanager`` or ``jobmanager``.
        conf: of Flink, with the memory settings.

    Raises:
        ConfigError: Flink cannot make sense of the sizes.
    """
    ours = TaskManagerMemory()
    sizes = {key: value for key, value in conf.items() if key.startswith(f"{role}.memory.")}
    if sizes == (ours.conf() if role == "taskmanager" else {}):
        return ours.jvm_flags() if role == "taskmanager" else ["-Xmx512m"]
    lib = _flink_lib()
    tool = [lib.parent / "bin" / "bash-java-utils.jar", *lib.glob("flink-dist-*.jar")]
    with tempfile.TemporaryDirectory(prefix="beam-k8s-") as folder:
        (Path(folder) / "config.yaml").write_text("".join(f"{key}: {json.dumps(sizes[key])}\n" for key in sizes))
        done = subprocess.run(
            [
                *(_java(), "-XX:TieredStopAtLevel=1", "-cp", os.pathsep.join(map(str, tool))),
                "org.apache.flink.runtime.util.bash.BashJavaUtils",
                "GET_TM_RESOURCE_PARAMS" if role == "taskmanager" else "GET_JM_RESOURCE_PARAMS",
                *("--configDir", folder),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    flags = re.search(r"^BASH_JAVA_UTILS_EXEC_RESULT:(.*)$", done.stdout, re.MULTILINE)
    if flags is None:
        why = re.findall(r"^.*?Exception: (.*)", done.stdout + done.stderr, re.MULTILINE)
        raise ConfigError(
            f"--k8s_flink_conf={role}.memory...: {why[-1] if why else done.stderr.strip()}",
            hint="Name one size, for example "
            + ("taskmanager.memory.task.heap.size=2g" if role == "taskmanager" else "jobmanager.memory.heap.size=1g"),
        )
    return flags[1].split()


def _write_harness(run_dir: Path, first: Sequence[Path] = ()) -> None:
    """Write the command of a run's harnesses: this interpreter, with this process's import path behind ``first``."""
    path = [*map(str, first), *(entry or str(Path.cwd()) for entry in sys.path)]
    variables = {
        "PYTHONPATH": os.pathsep.join(path),
        "BEAM_K8S_LOG_DIR": str(run_dir / "logs"),
        "SEMI_PERSISTENT_DIRECTORY": str(run_dir),
    }
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    harness = run_dir / _HARNESS_FILE
    harness.write_text(
        f'#!/bin/sh\n{"".join(lines)}exec {shlex.quote(sys.executable)} -m beam_k8s.transforms.boot "$@"\n'
    )
    harness.chmod(0o755)


_NO_JOB = {"checkpoints": "", "job_id": "", "registered": "", "remove_when_done": False}


class SessionCluster:
    """A Flink session cluster on this machine; jobs given ``--flink_master=ADDRESS`` start in it in seconds.

    A context manager; leaving it, or the end of this process, stops everything. Its jobs' harnesses are forks of
    processes that imported Beam and this package when it started.

    Args:
        run_dir: new or empty folder for logs and working files; the caller's to remove.
        workers: TaskManagers.
        slots: of each TaskManager.
        conf: more Flink settings.
        jars: on the class path beside Flink's own instead of the runner jar, for jobs that are not of this package.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        workers: int = 1,
        slots: int = 2,
        conf: dict[str, str] | None = None,
        jars: Sequence[Path] | None = None,
    ) -> None:
        for folder in ("logs", "tmp", "archive"):
            (run_dir / folder).mkdir(parents=True)
        _write_harness(run_dir)
        settings = {"taskmanager.numberOfTaskSlots": str(slots), **(conf or {})}
        full = _cluster_conf(run_dir, f"file://{run_dir}/checkpoints", settings)
        self._cluster = _Cluster(run_dir, full, [_SESSION], workers=workers, jars=jars, **_NO_JOB)
        self.address = self._cluster.rest.url.removeprefix("http://")

    def __enter__(self) -> Self:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            with suppress(FlinkError):
                if self._cluster.rest.get("/overview")["taskmanagers"]:
                    return self
            if not self._cluster.alive():
                break
            time.sleep(0.2)
        self.stop()
        raise LocalClusterError("the session cluster did not start.", hint=f"See {self._cluster.run_dir}/logs")

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all processes of the cluster. Idempotent."""
        self._cluster.stop()


class LocalTarget:
    """Runs jobs on this machine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        suffix = secrets.token_hex(4)
        self._registered = _runs() / f"{settings.job_name}-{suffix}"
        self.run_dir = Path(settings.run_dir).absolute() if settings.run_dir else self._registered
        self._keep = settings.run_dir is not None

    @property
    def global_name(self) -> str:
        """See Target."""
        return self._settings.job_name

    def preflight(self) -> list[BeamK8sError]:
        """See Target."""
        return preflight(self._settings)

    def dry_run(self, plan: SubmitPlan) -> str:
        """See Target."""
        return str(plan)

    def build(self, plan: SubmitPlan) -> str:
        """See Target. ``settings`` refuses it."""
        raise NotImplementedError

    def harness_command(self) -> str:
        """See Target."""
        return str(self.run_dir / _HARNESS_FILE)

    @property
    def staged(self) -> Path:
        """See Target."""
        return self.run_dir / "staged"

    def deploy(self, plan: SubmitPlan) -> LocalJob:
        """See Target."""
        report(f"{self._settings.job_name} starts; logs in {self.run_dir / 'logs'}")
        try:
            self._fill(plan)
            return self._start(plan)
        except BaseException:
            self.remove()
            raise

    def prepare(self) -> None:
        """See Target. Makes the run directory."""
        try:
            for folder in ("logs", "tmp", "job", "staged", "archive"):
                (self.run_dir / folder).mkdir(parents=True, exist_ok=True)
            self.run_dir.chmod(0o700)
            if self.run_dir != self._registered:
                self._registered.parent.mkdir(parents=True, exist_ok=True)
                self._registered.symlink_to(self.run_dir)
        except OSError as cause:
            self.remove()
            raise ConfigError(f"--k8s_run_dir={self.run_dir} cannot be made: {cause.strerror}.") from cause

    def remove(self) -> None:
        """Leave nothing of this run."""
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self._unregister()

    def release(self, *, done: bool) -> None:
        """The job has ended: its files go with it if it is DONE, unless their folder was asked for by name."""
        _forget(self.run_dir)
        if done and not self._keep:
            self.remove()
        self._unregister()

    def _unregister(self) -> None:
        if self._registered.is_symlink():
            self._registered.unlink()

    def _fill(self, plan: SubmitPlan) -> None:
        write_job(plan, self.run_dir / "job")
        _write_private(self.run_dir / _OPTIONS_FILE, options_json(plan.harness_options))
        _write_harness(self.run_dir, [self.staged / name for name in IMPORT_PATH])

    def _start(self, plan: SubmitPlan) -> LocalJob:
        settings = plan.settings
        arguments = [
            "--pipeline",
            str(self.run_dir / "job" / PIPELINE_FILE),
            "--options-reference",  # only the file's name gets into the job graph
            str(self.run_dir / _OPTIONS_FILE),
            "--translator-options",
            str(self.run_dir / "job" / TRANSLATOR_FILE),
        ]
        savepoint = _restore_path(settings.savepoint_path) if settings.savepoint_path else None
        if settings.flink_master is not None:
            url = _session_url(settings.flink_master)
            rest = FlinkRest(url, timeout=60)
            job_id = rest.run(
                JOB_MAIN,
                arguments,
                plan.flink_conf,
                savepoint=savepoint,
                allow_non_restored=settings.allow_non_restored_state,
            )
            (self.run_dir / _SESSION_FILE).write_text(json.dumps({"url": url, "job_id": job_id}))
            return LocalJob(self, settings, job_id, rest, None)
        storage = settings.storage or f"file://{self.run_dir}/checkpoints"
        if "://" not in storage:
            storage = f"file://{Path(storage).absolute()}"
        job_id = secrets.token_hex(16)
        reactive = reactive_conf() if settings.streaming else {}
        conf = _cluster_conf(self.run_dir, storage, reactive | plan.flink_conf)
        restore = ["--fromSavepoint", savepoint] if savepoint else []
        if savepoint and settings.allow_non_restored_state:
            restore.append("--allowNonRestoredState")
        local_storage = _local_path(storage)
        cluster = _Cluster(
            self.run_dir,
            conf,
            [_APPLICATION, "--job-id", job_id, "--job-classname", JOB_MAIN, supervisor.RESTORE, *arguments],
            workers=settings.workers,
            restore=restore,
            checkpoints=str(local_storage / job_id) if local_storage else "",
            job_id=job_id,
            registered=str(self._registered),
            remove_when_done=not self._keep,
        )
        return LocalJob(self, settings, job_id, cluster.rest, cluster)


class LocalJob:
    """A job on this machine; see Job."""

    def __init__(
        self, target: LocalTarget, settings: Settings, job_id: str, rest: FlinkRest, cluster: _Cluster | None
    ) -> None:
        self.name = settings.job_name
        self.poll_seconds = 0.25
        self.job_id = job_id
        self.run_dir = target.run_dir
        self._cpu = settings.worker_cpu or settings.slots
        self.logs = WorkerLogs(self.run_dir / "logs")
        self._target = target
        self._rest = rest
        self._cluster = cluster
        self._detached = False
        self._answered = time.monotonic()

    def observe(self) -> Observation:
        """See Job."""
        state = self._state(self._rest)
        if self._cluster is None:
            return self._observe_session(state)
        if state is None or state in TERMINAL:
            if state in TERMINAL:
                self._cluster.wait()  # Flink ends by itself now, having written all there is to know of the job
            ended = not self._cluster.alive()  # asked before the archive is looked at: it is complete then
            archived = self._archived()
            if archived is not None:
                state = self._state(archived)
            elif ended and self._cluster.was_stopped():
                state = "CANCELLED"
            elif ended:
                return Observation("FAILED", self._cluster.error() or self._log_tail())
        if state is None:
            return Observation("STARTING", "waits for the JobManager")
        return Observation(state)

    def _observe_session(self, state: str | None) -> Observation:
        if state is not None:
            self._answered = time.monotonic()
            return Observation(state)
        if time.monotonic() - self._answered > _END_SECONDS:
            return Observation("FAILED", f"the session cluster at {self._rest.url} is gone, and the job with it")
        return Observation("STARTING", "waits for the session cluster")

    def _state(self, flink: FlinkReads) -> str | None:
        with suppress(FlinkError):
            status = flink_rest.status(flink, self.job_id)
            return None if status is None else pipeline_state(status)
        return None

    def flink(self) -> FlinkReads | None:
        """See Job."""
        archived = self._archived()
        if archived is None and self._cluster is not None and not self._cluster.alive():
            return None
        return archived or self._rest

    def _archived(self) -> ArchivedFlink | None:
        """What Flink left of the ended job, once that is complete."""
        try:
            return ArchivedFlink(self.run_dir / "archive" / self.job_id)
        except (OSError, ValueError):
            return None

    @property
    def control(self) -> Control:
        """The job's own cluster, to ask and to tell.

        Raises:
            ConfigError: it runs in a session cluster.
        """
        if self._cluster is None:
            raise ConfigError("a job in a session cluster cannot be scaled.", hint="Leave --flink_master out.")
        return self._cluster.control

    def workers(self) -> LocalWorkers:
        """See Job."""
        self.control  # noqa: B018 - raises where they are not ours
        return LocalWorkers(self.run_dir, self._cpu)

    @property
    def scaled_by(self) -> str:
        """See Job."""
        return "Nobody scales it now."

    def scale(self, workers: int) -> None:
        """See Job."""
        self.control.ask(op="scale", workers=workers)

    def stop(self) -> None:
        """See Job."""
        if self._cluster is None:
            _Session(self._rest, self.job_id).cancel()
            return
        with suppress(FlinkError):  # not up yet, or not any more
            self._rest.cancel(self.job_id)
            self._cluster.wait()  # the JobManager leaves when the job is cancelled
        self._cluster.stop()

    def detach(self) -> str:
        """See Job."""
        if self._cluster is not None and self._cluster.alive() and not self._detached:
            self._cluster.control.ask(op="detach")
        self._detached = True
        return f"beam-k8s cancel {self.name}"

    def close(self) -> None:
        """See Job. The run directory goes with a job that is DONE, unless it was asked for by name."""
        if self._detached:
            return
        if self._cluster is not None:
            self._cluster.stop()
        self._target.release(done=self.observe().state == "DONE")

    def _log_tail(self) -> str:
        """The last error in the JobManager's log: why there is not even a job."""
        log = self.run_dir / "logs" / "jobmanager.log"
        text = log.read_text() if log.exists() else ""
        causes = re.findall(r"^Caused by: .*", text, re.MULTILINE)
        return causes[-1] if causes else f"Flink ended early; see {self.run_dir}/logs"


class WorkerLogs:
    """Brings what the Python workers of a local run write to this terminal, as it comes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}
        self._lock = threading.Lock()

    def show(self) -> None:
        """Print all complete lines that are new."""
        with self._lock:
            for file in sorted(self._folder.glob("harness-*.log")):
                offset = self._offsets.get(file, 0)
                with file.open("rb") as stream:
                    stream.seek(offset)
                    data = stream.read()
                end = data.rfind(b"\n") + 1
                self._offsets[file] = offset + end
                worker = file.stem.partition("-")[2]
                for line in data[:end].decode(errors="replace").splitlines():
                    print(f"[worker {worker}] {line}", file=sys.stderr, flush=True)


class _Session:
    """A job in a session cluster, which no supervisor of its own looks after."""

    def __init__(self, rest: FlinkRest, job_id: str) -> None:
        self._rest = rest
        self._job_id = job_id

    @classmethod
    def of_run(cls, run_dir: Path) -> Self | None:
        """The job of a run, if it is one in a session cluster."""
        try:
            found = json.loads((run_dir / _SESSION_FILE).read_text())
        except OSError:
            return None
        return cls(FlinkRest(found["url"], timeout=10), found["job_id"])

    def is_running(self) -> bool:
        """Whether the cluster knows it as a job that has not ended."""
        try:
            status = flink_rest.status(self._rest, self._job_id)
        except FlinkError:
            return False
        return status is not None and pipeline_state(status) not in TERMINAL

    def cancel(self) -> None:
        """Cancel it and wait for its end.

        Raises:
            FlinkError: the cluster does not answer, or the job does not end.
        """
        if not self.is_running():
            return
        self._rest.cancel(self._job_id)
        deadline = time.monotonic() + _END_SECONDS
        while self.is_running():
            if time.monotonic() > deadline:
                raise FlinkError(f"job {self._job_id} at {self._rest.url} does not end after it was cancelled.")
            time.sleep(0.1)


def cancel(name: str) -> bool:
    """Cancel all jobs of this name on this machine and wait until they are gone; False if there is none."""
    found = [run_dir for job, run_dir in running_jobs() if job == name]
    for run_dir in found:
        if (session := _Session.of_run(run_dir)) is not None:
            session.cancel()
            _forget(run_dir)
            continue
        with closing(Control.of_run(run_dir)) as control, suppress(LocalClusterError):
            control.ask(op="stop")
            control.ask(op="status")  # answered by the end of the connection: all is gone
    return bool(found)


def _forget(run_dir: Path) -> None:
    """Remove what an ended run must not leave: its options, which may hold secrets, and where it ran."""
    for name in (_OPTIONS_FILE, _SESSION_FILE):
        (run_dir / name).unlink(missing_ok=True)
