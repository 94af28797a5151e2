"""The flags of FlinkK8s: their surface only. What they mean and default to stands in ``settings``.

Beam collects flags from direct subclasses of PipelineOptions. No flag has a default or ``choices`` here, so that
"not given" can be told from "given" (environment and file may speak then) and all wrong values are reported at once.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from apache_beam.options.pipeline_options import PipelineOptions

if TYPE_CHECKING:
    from argparse import ArgumentParser

__all__ = ["OPTIONS_HERE", "FlinkK8sOptions", "options_of_worker"]


_HELP = {
    "target": "Where the job runs: kubernetes (default), or local: Flink processes on this machine.",
    "context": "Context of the kubeconfig. Default: the current one.",
    "kubeconfig": "The kubeconfig file. Default: as kubectl; in a pod, the pod's own account.",
    "namespace": "Namespace of the job. Default: that of the context.",
    "impersonate": "User to act as, such as system:serviceaccount:NAMESPACE:NAME.",
    "image_repository": "Where the job's image is pushed: REGISTRY/REPOSITORY.",
    "image": "A ready image of this job, by digest or tag: none is built.",
    "runtime_image": "Base of the job's image (images/runtime), best in the same registry.",
    "image_builder": "Who builds the image: registry (default), by its HTTP API alone; or docker, an engine.",
    "service_account": "Account of the pods; it may write ConfigMaps. Default: flink.",
    "storage": "Folder (URL) of checkpoints and savepoints, e.g. s3://bucket/path or file:///path. "
    "Required on kubernetes; local: inside the run directory.",
    "storage_claim": "PersistentVolumeClaim of a file:// storage, mounted at its path.",
    "task_slots": "Slots of a TaskManager; one Python worker runs in each. Default: 1 a vCPU of --machine_type.",
    "worker_cpu": "vCPUs of a TaskManager instead of those of --machine_type, e.g. 0.5; its memory goes with them.",
    "tenant": "Whom the job belongs to; becomes a label.",
    "start_timeout": "Seconds after which a job that never ran is given up and removed. Default: 600.",
    "job_id": "Id of this submission, 32 hexadecimal digits, to find it again. Default: a new one.",
    "autoscaler_mode": "off (default); on: workers come and go with backlog and CPU, from "
    "--k8s_autoscaler_conf=min_workers=N to --max_num_workers; recommend: only say what it would do.",
    "run_dir": "local: the folder for this run's logs and working files. It must not exist yet or be empty. "
    "Default: a new one below ~/.local/state/beam_k8s/runs, removed when the job is done.",
    "dry_run": "none (default); client: print the plan and stop; server: let the API server check it too.",
    "output": "Form of a dry run: text (default), or yaml: the Kubernetes objects, to commit.",
}
_SWITCHES = {
    "build_only": "Build and push the job's image, print its name, and stop.",
    "insecure_registry": "Speak plain HTTP with the registry.",
    "detach": "Return when the job is submitted; wait_until_finish() does not wait.",
}


class FlinkK8sOptions(PipelineOptions):
    """Options of ``--runner=FlinkK8s``; each begins with ``--k8s_``."""

    @classmethod
    def _add_argparse_args(cls, parser: ArgumentParser) -> None:
        for name, text in _HELP.items():
            parser.add_argument(f"--k8s_{name}", help=text)
        parser.add_argument(
            "--k8s_flink_conf",
            action="append",
            help="A Flink setting, KEY=VALUE; wins over ours. May be given several times.",
        )
        parser.add_argument(
            "--k8s_autoscaler_conf",
            action="append",
            help="A setting of the autoscaler, NAME=VALUE, e.g. backlog_slo=30. May be given several times.",
        )
        parser.add_argument(
            "--k8s_secrets",
            action="append",
            help="A Secret whose keys become files in all pods, /etc/secrets/NAME/KEY. May be given several times.",
        )
        for name, text in _SWITCHES.items():
            parser.add_argument(f"--k8s_{name}", nargs="?", const="true", help=text)


OPTIONS_HERE: dict[int, PipelineOptions] = {}
"""Options that this process pickled by reference, by number: unpickled here they are the same objects."""


def options_of_worker(kind: type[PipelineOptions], number: int) -> PipelineOptions:
    """The pipeline's options, as the worker has them whose environment this is (``PIPELINE_OPTIONS``).

    What a pickled main session has in place of its options.

    Args:
        kind: class of the options.
        number: of the object, in the process that has pickled it.
    """
    if number in OPTIONS_HERE:
        return OPTIONS_HERE[number]
    from apache_beam.runners.worker import sdk_worker_main

    given = os.environ.get("PIPELINE_OPTIONS")
    return sdk_worker_main._parse_pipeline_options(given).view_as(kind)  # noqa: SLF001 - as the worker reads them
