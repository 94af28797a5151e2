"""Starts the Python harness of a TaskManager: Beam's container contract, for an image without Beam's own boot program.

The TaskManager runs it as the command of a PROCESS environment, with the address of the provision service, and throws
its output away: so that goes to a file in ``BEAM_K8S_LOG_DIR``, together with what the user's code logs. One process
from start to end: Beam is imported once.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LOG_DIR", "main"]

LOG_DIR = "BEAM_K8S_LOG_DIR"
"""Environment variable: folder for this process's output; unset leaves the output alone."""


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


def _redirect_output(folder: str) -> None:
    file = os.open(Path(folder) / f"harness-{os.getpid()}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s:%(name)s:%(message)s"))
    handler.addFilter(_UsersOwn())
    handler.addFilter(_NoFarewells())
    logging.getLogger().addHandler(handler)


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


def main() -> None:
    """Ask the runner what to do (provision service), then be the harness until the runner hangs up."""
    parser = argparse.ArgumentParser()
    for name in ("id", "provision_endpoint", "semi_persist_dir"):
        parser.add_argument(f"--{name}", default="")
    arguments, _ = parser.parse_known_args()
    if folder := os.environ.get(LOG_DIR):
        _redirect_output(folder)

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
    # Beam's harness leaves threads that wait for the runner, as the runner waits for this process to end.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
