"""Seconds from ``python my_pipeline.py`` to RUNNING, warm: ours against Beam's FlinkRunner with an uber jar.

Both submit the same pipeline to the same Flink session cluster, taking turns, and both start the same Python harness;
ours is a fork of a process of the cluster that has imported Beam. RUNNING means that Flink reports every task of the
job as RUNNING. The first round of each warms caches and the cluster and is not counted. Also measured, without a peer:
ours with a cluster of its own (the default).

    python -m benchmarks.startup [--quick] [--json FILE]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

from beam_k8s.launcher.flink_rest import FlinkRest
from beam_k8s.launcher.local import SessionCluster, cancel, runner_jar, running_jobs
from benchmarks.report import Report, arguments

if TYPE_CHECKING:
    from collections.abc import Callable

GOAL = 1.0
"""Ours must not be slower: ratio of ours to the peer's seconds."""

PIPELINE = """
    import sys
    import apache_beam as beam
    import beam_k8s
    from apache_beam.transforms.periodicsequence import PeriodicImpulse

    if __name__ == "__main__":
        p = beam.Pipeline(argv=[*sys.argv, "--streaming"])
        ticks = p | PeriodicImpulse(fire_interval=1) | beam.WindowInto(beam.window.FixedWindows(1))
        ticks | beam.Map(lambda x: (x, 1)) | beam.GroupByKey() | beam.Map(print)
        p.run()
"""


def seconds_to_running(command: list[str], rest: Callable[[], FlinkRest | None]) -> float:
    """Run a submission until Flink reports a job with all tasks running, then end both; the seconds it took.

    Args:
        command: the user's command line.
        rest: where the job will be seen; None as long as that is not known.
    """
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while time.monotonic() - start < 60:
            flink = rest()
            job_id = flink and running_job(flink)
            if job_id:
                seconds = time.monotonic() - start
                flink.cancel(job_id)
                while any(job["status"] not in {"CANCELED", "FINISHED"} for job in flink.get("/jobs")["jobs"]):
                    time.sleep(0.1)
                return seconds
            time.sleep(0.05)
        raise TimeoutError(" ".join(command))
    finally:
        process.terminate()
        process.wait()


def running_job(flink: FlinkRest) -> str | None:
    """The id of the job whose tasks all run, if there is one."""
    try:
        for job in flink.get("/jobs/overview")["jobs"]:
            if job["state"] == "RUNNING" and job["tasks"]["running"] == job["tasks"]["total"] > 0:
                return str(job["jid"])
    except Exception:  # noqa: BLE001 - not up yet
        return None
    return None


def own_cluster(name: str) -> FlinkRest | None:
    """The REST endpoint of a job with a cluster of its own."""
    for job, run_dir in running_jobs():
        conf = run_dir / "conf" / "config.yaml"
        if job == name and conf.exists():
            for line in conf.read_text().splitlines():
                if line.startswith("rest.port:"):
                    return FlinkRest(f"http://127.0.0.1:{json.loads(line.partition(':')[2])}")
    return None


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__ or "")
    rounds = 2 if options.quick else 7
    with tempfile.TemporaryDirectory(prefix="beam-k8s-bench-") as folder:
        scratch = Path(folder)
        script = scratch / "my_pipeline.py"
        script.write_text(textwrap.dedent(PIPELINE))
        harness = scratch / "harness"
        harness.write_text(f'#!/bin/sh\nexec {sys.executable} -m beam_k8s.transforms.boot "$@"\n')
        harness.chmod(0o755)
        ours = [sys.executable, str(script), "--runner=FlinkK8s", "--k8s_target=local"]
        seconds: dict[str, list[float]] = {"ours": [], "uber jar": [], "ours, own cluster": []}
        with SessionCluster(scratch / "cluster", slots=4) as cluster:
            rest = FlinkRest(f"http://{cluster.address}")
            commands = {
                "ours": [*ours, f"--flink_master={cluster.address}"],
                "uber jar": [
                    sys.executable,
                    str(script),
                    "--runner=FlinkRunner",
                    f"--flink_master=http://{cluster.address}",
                    "--flink_submit_uber_jar",
                    f"--flink_job_server_jar={runner_jar()}",
                    "--environment_type=PROCESS",
                    "--environment_config=" + json.dumps({"command": str(harness)}),
                ],
            }
            for turn in range(rounds + 1):
                for name, command in commands.items():
                    took = seconds_to_running(command, lambda: rest)
                    if turn:
                        seconds[name].append(took)
        for turn in range(1 if options.quick else rounds):
            name = f"startup-{turn}"
            took = seconds_to_running([*ours, f"--job_name={name}"], lambda name=name: own_cluster(name))
            seconds["ours, own cluster"].append(took)
            cancel(name)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["ours"] / medians["uber jar"]
    report = Report("startup", {"seconds": seconds, "median_seconds": medians, "ratio": ratio})
    report.table(
        ("path", "median s", "min s", "max s", "runs"),
        [
            (name, f"{medians[name]:.1f}", f"{min(values):.1f}", f"{max(values):.1f}", len(values))
            for name, values in seconds.items()
        ],
    )
    report.finish(options.json, metric="ours_to_uber_jar", value=ratio, goal=GOAL, lower_is_better=True)


if __name__ == "__main__":
    main()
