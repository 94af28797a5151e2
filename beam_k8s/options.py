"""The flags of FlinkK8s: their surface only. What they mean and default to stands in ``settings``.

Beam collects flags from direct subclasses of PipelineOptions. No flag has a default or ``choices`` here, so that
"not given" can be told from "given" (environment and file may speak then) and all wrong values are reported at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apache_beam.options.pipeline_options import PipelineOptions

if TYPE_CHECKING:
    from argparse import ArgumentParser

__all__ = ["FlinkK8sOptions"]


class FlinkK8sOptions(PipelineOptions):
    """Options of ``--runner=FlinkK8s``; each begins with ``--k8s_``."""

    @classmethod
    def _add_argparse_args(cls, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--k8s_target",
            help="Where the job runs: kubernetes (default), or local: Flink processes on this machine.",
        )
        parser.add_argument(
            "--k8s_task_slots",
            help="Slots of a TaskManager; one Python worker runs in each. Default: 1 a vCPU of --machine_type.",
        )
        parser.add_argument(
            "--k8s_storage",
            help="Folder (URL) of checkpoints and savepoints, e.g. s3://bucket/path or file:///path. "
            "Required on kubernetes; local: inside the run directory.",
        )
        parser.add_argument(
            "--k8s_flink_conf",
            action="append",
            help="A Flink setting, KEY=VALUE; wins over ours. May be given several times.",
        )
        parser.add_argument(
            "--k8s_run_dir",
            help="local: the folder for this run's logs and working files. It must not exist yet or be empty. "
            "Default: a new one below ~/.local/state/beam_k8s/runs, removed when the job is done.",
        )
        parser.add_argument(
            "--k8s_dry_run",
            help="none (default), or client: print the plan and stop.",
        )
