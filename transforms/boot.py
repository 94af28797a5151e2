"""Starts the Python harness of a TaskManager: Beam's container contract, for an image without Beam's own boot program.

The TaskManager runs it as the command of a PROCESS environment, with the address of the provision service, and throws
its output away: so that goes to a file in ``BEAM_K8S_LOG_DIR``, or to the container's output, ``BEAM_K8S_LOG_OUTPUT``,
together with what the user's code logs. The harness is a fork of a process that has imported Beam already, where there
can be one (``warm``).
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from beam_k8s.names import WORKER_LINE
from beam_k8s.transforms import warm

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LOG_DIR", "LOG_OUTPUT", "main"]

LOG_DIR = "BEAM_K8S_LOG_DIR"
"""Environment variable: folder for this process's output."""
LOG_OUTPUT = "BEAM_K8S_LOG_OUTPUT"
"""Environment variable: file, shared with others, that gets this process's output, each line marked as this worker's.
Without one of the two the output is left alone."""
_LAST_LINES_SECONDS = 5
_SAMPLING_MS = 10
"""Between two looks at which step runs. A bundle waits at its end until the thread that looks wakes up: with Beam's
200 ms a tenth of its time on average."""


class _NoOptions(logging.Filter):
    """Drops Beam's lines that spell out pipeline options, which may hold secrets, and one that alarms for nothing."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(
            ("Pipeline_options", "Discarding ", "Unknown pipeline options", "No session file found")
        )


def _hung_up(error: object) -> bool:
    """Whether this is how gRPC says that the runner has ended the connection: the job is over, or its TaskManager."""
    import grpc

    return isinstance(error, grpc.Call) and error.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}


class _NoFarewells(logging.Filter):
    """Drops the traceback that Beam's harness logs when the runner hangs up, which is the usual end."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and _hung_up(record.exc_info[1]))


class _UsersOwn(logging.Filter):
    """Keeps what concerns the user: all of his own loggers, and warnings of Beam's."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or not record.name.startswith(("apache_beam", "kafka"))


def _redirect_output(pid: int) -> subprocess.Popen[bytes] | None:
    """Let the output go where the environment says; return the process that it goes through, if there is one.

    Args:
        pid: what people know this process by.
    """
    marker = None
    if folder := os.environ.get(LOG_DIR):
        file = os.open(Path(folder) / f"harness-{pid}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    elif output := os.environ.get(LOG_OUTPUT):
        source, file = os.pipe()
        mark = f"s/^/{re.escape(WORKER_LINE.format(pid=pid))}/"
        with Path(output).open("ab", buffering=0) as shared:
            # A process of its own writes the last lines of one that is killed, too. It ends with its input.
            marker = subprocess.Popen(["stdbuf", "-oL", "sed", mark], stdin=source, stdout=shared, stderr=shared)
        os.close(source)
    else:
        return None
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s:%(name)s:%(message)s"))
    handler.addFilter(_UsersOwn())
    handler.addFilter(_NoFarewells())
    logging.getLogger().addHandler(handler)
    return marker


def _end(code: int, marker: subprocess.Popen[bytes] | None) -> NoReturn:
    """End this process, its last lines written."""
    sys.stdout.flush()
    sys.stderr.flush()
    if marker is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        # Nobody else waits for it: the container's first process is a JVM. What the user started may hold its input.
        with suppress(subprocess.TimeoutExpired):
            marker.wait(_LAST_LINES_SECONDS)
    # Beam's harness leaves threads that wait for the runner, as the runner waits for this process to end.
    os._exit(code)


def _or_end(load: Callable[[str], None]) -> Callable[[str], None]:
    """End this process when the main session cannot be loaded.

    Beam's harness would say so to the first bundle only, and the runner would wait minutes for its data connection.
    """

    def load_or_end(folder: str) -> None:
        try:
            load(folder)
        except Exception as cause:
            raise SystemExit("The main session (--save_main_session) cannot be loaded by the worker.") from cause

    return load_or_end


def sample_often() -> None:
    """Let the bundles of this process end without a long wait for Beam's sampler."""
    from apache_beam.runners.worker import statesampler

    statesampler.StateSampler.__init__.__defaults__ = (_SAMPLING_MS,)


def _load() -> None:
    """Import what every harness needs."""
    importlib.import_module("apache_beam.runners.worker.sdk_worker_main")
    for name in ("backlog", "frames", "kafka", "parameters", "windows"):
        importlib.import_module(f"beam_k8s.transforms.{name}")


def main() -> None:
    """Be the harness, or the command that stands for it, or what it is forked from."""
    owner = re.fullmatch(r"--warm=(\d+)", sys.argv[-1])
    if owner is None:
        if (code := warm.stand_in(sys.argv[1:])) is not None:
            sys.exit(code)
        marker = _redirect_output(os.getpid())
    else:
        order = warm.serve(int(owner[1]), _load)
        marker = _redirect_output(order.pid)
        order.when_left(lambda: _end(1, marker))
    _work(marker)


def _work(marker: subprocess.Popen[bytes] | None) -> NoReturn:
    """Ask the runner what to do (provision service), then be the harness until the runner hangs up."""
    signal.signal(signal.SIGTERM, lambda *_: _end(128 + signal.SIGTERM, marker))
    parser = argparse.ArgumentParser()
    for name in ("id", "provision_endpoint", "semi_persist_dir"):
        parser.add_argument(f"--{name}", default="")
    arguments, _ = parser.parse_known_args()

    import grpc
    from apache_beam.portability.api import (
        beam_provision_api_pb2,
        beam_provision_api_pb2_grpc,
        endpoints_pb2,
    )
    from google.protobuf import json_format, text_format

    with grpc.insecure_channel(arguments.provision_endpoint) as channel:
        info = (
            beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
            .GetProvisionInfo(
                beam_provision_api_pb2.GetProvisionInfoRequest(),
                metadata=[("worker_id", arguments.id)],
                timeout=60,
            )
            .info
        )

    def descriptor(url: str) -> str:
        return str(text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=url)))

    os.environ |= {
        "WORKER_ID": arguments.id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "LOGGING_API_SERVICE_DESCRIPTOR": descriptor(info.logging_endpoint.url),
        "CONTROL_API_SERVICE_DESCRIPTOR": descriptor(info.control_endpoint.url),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }
    os.environ.setdefault("SEMI_PERSISTENT_DIRECTORY", arguments.semi_persist_dir)

    from apache_beam.runners.worker import sdk_worker_main

    from beam_k8s.transforms import parameters, windows

    windows.install()
    parameters.install()
    sample_often()
    others = threading.excepthook
    threading.excepthook = lambda args: None if _hung_up(args.exc_value) else others(args)
    for talker in (sdk_worker_main.__name__, "apache_beam.options.pipeline_options"):
        logging.getLogger(talker).addFilter(_NoOptions())
    sdk_worker_main._load_main_session = _or_end(sdk_worker_main._load_main_session)  # noqa: SLF001 - no other way in
    code = 0
    try:
        sdk_worker_main.main([])
    except BaseException as error:  # noqa: BLE001 - the end of this process, whatever it is
        if not _hung_up(error):
            code = 1
            traceback.print_exc()
    _end(code, marker)


if __name__ == "__main__":
    main()
