"""The four ways to name the runner, and what a result offers: states, waiting, metrics, in batch and streaming."""

import subprocess
import sys
import textwrap

import apache_beam as beam
import psutil
import pytest
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.periodicsequence import PeriodicImpulse

from beam_k8s.launcher.result import python_traceback

SCRIPT = """
    import sys
    import apache_beam as beam

    if __name__ == "__main__":
        with beam.Pipeline(argv=sys.argv[1:]) as p:
            p | beam.Create([1])
"""
DRY = ["--k8s_target=local", "--k8s_dry_run=client", "--job_name=door"]


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "my_pipeline.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


def python(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_the_dotted_name_needs_no_import(script):
    done = python(script, "--runner=beam_k8s.FlinkK8s", *DRY)
    assert "job door on local, batch" in done.stdout, done.stderr


@pytest.mark.parametrize("order", ["import beam_k8s\nimport apache_beam", "import apache_beam\nimport beam_k8s"])
@pytest.mark.parametrize("name", ["FlinkK8s", "FlinkK8sRunner", "flinkk8s"])
def test_importing_us_makes_the_name_known(script, order, name):
    script.write_text(order + "\n" + script.read_text())
    done = python(script, f"--runner={name}", *DRY)
    assert "job door on local, batch" in done.stdout, done.stderr


def test_importing_us_does_not_import_beam():
    done = python("-c", "import sys, beam_k8s; sys.exit('apache_beam' in sys.modules)")
    assert done.returncode == 0


def test_beam_k8s_run_needs_no_change_of_the_script(script):
    done = python("-m", "beam_k8s", "run", script, *DRY)
    assert "job door on local, batch" in done.stdout, done.stderr


def test_autoload_makes_the_name_known_to_every_script(script, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv"], check=True)
    inner = tmp_path / "venv" / "bin" / "python"
    here = next(path for path in sys.path if path.endswith("site-packages"))
    pth = inner.parents[1] / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "outer.pth"
    pth.write_text(f"import site; site.addsitedir({here!r})\n")

    def run(*arguments):
        return subprocess.run([inner, *map(str, arguments)], capture_output=True, text=True, check=False)

    assert "Unexpected pipeline runner: FlinkK8s" in run(script, "--runner=FlinkK8s", *DRY).stderr
    assert run("-m", "beam_k8s", "autoload", "enable").returncode == 0
    done = run(script, "--runner=FlinkK8s", *DRY)
    assert "job door on local, batch" in done.stdout, done.stderr
    assert run("-m", "beam_k8s", "autoload", "disable").returncode == 0
    assert "Unexpected pipeline runner: FlinkK8s" in run(script, "--runner=FlinkK8s", *DRY).stderr


class Measure(beam.DoFn):
    def process(self, element):
        Metrics.counter("mine", "seen").inc()
        Metrics.distribution("mine", "size").update(element)
        Metrics.gauge("mine", "last").set(7)
        yield element


@pytest.fixture
def options(session_cluster):
    return lambda *flags: PipelineOptions(
        [
            "--runner=FlinkK8s",
            "--k8s_target=local",
            f"--flink_master={session_cluster.address}",
            "--sdk_worker_parallelism=1",
            *flags,
        ]
    )


@pytest.mark.parametrize("mode", [[], ["--streaming"]], ids=["batch", "streaming"])
def test_metrics_of_a_finished_job(options, mode):
    with beam.Pipeline(options=options(*mode)) as pipeline:
        pipeline | beam.Create([1, 2, 6]) | beam.ParDo(Measure())
    result = pipeline.result
    assert result.state == "DONE"
    found = result.metrics().query(MetricsFilter().with_namespace("mine"))
    assert [each.result for each in found["counters"]] == [3]
    (distribution,) = (each.result for each in found["distributions"])
    assert (distribution.sum, distribution.count, distribution.min, distribution.max) == (9, 3, 1, 6)
    assert [each.result.value for each in found["gauges"]] == [7]
    assert not result.metrics().query(MetricsFilter().with_name("other"))["counters"]


def test_waiting_ends_with_time_and_cancel_is_final(options):
    pipeline = beam.Pipeline(options=options("--checkpointing_interval=500"))
    pipeline | PeriodicImpulse(fire_interval=0.2) | beam.Map(lambda x: 1) | beam.ParDo(Measure())
    result = pipeline.run()
    assert result.wait_until_finish(duration=1) is None
    while not result.metrics().query(MetricsFilter().with_name("seen"))["counters"]:
        assert result.wait_until_finish(duration=200) is None
    assert result.state == "RUNNING"
    assert result.cancel() == "CANCELLED"
    assert result.cancel() == "CANCELLED"
    with pytest.raises(RuntimeError, match="ended in state CANCELLED"):
        result.wait_until_finish()


def test_a_job_that_is_cancelled_while_it_starts_is_cancelled(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FlinkK8s", "--k8s_target=local", "--streaming"]))
    pipeline | PeriodicImpulse(fire_interval=1) | beam.Map(lambda x: x)
    result = pipeline.run()
    assert result.state == "STARTING"
    assert result.cancel() == "CANCELLED"


def test_a_users_memory_settings_reach_the_jvm(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    flags = ["--runner=FlinkK8s", "--k8s_target=local", "--k8s_flink_conf=taskmanager.memory.task.heap.size=300m"]
    pipeline = beam.Pipeline(options=PipelineOptions([*flags, "--streaming"]))
    pipeline | PeriodicImpulse(fire_interval=1) | beam.Map(lambda x: x)
    result = pipeline.run()
    try:
        while result.state != "RUNNING":
            assert result.wait_until_finish(duration=200) is None
        (worker,) = result.job.control.ask(op="status")["taskmanagers"]
        heap = next(flag for flag in psutil.Process(worker).cmdline() if flag.startswith("-Xmx"))
    finally:
        result.cancel()
    assert int(heap.removeprefix("-Xmx")) == (300 + 128) << 20  # and Flink's own


def test_the_users_traceback_is_taken_out_of_javas():
    java = (
        "org.apache.flink.runtime.JobException: Recovery is suppressed\n\tat org.apache.X.y(X.java:1)\n"
        "Caused by: java.lang.RuntimeException: Error received from SDK harness for instruction 4: "
        "Traceback (most recent call last):\n"
        "  File \"my.py\", line 3, in divide\n    return 1 // x\nZeroDivisionError: by zero [while running 'Divide']\n"
        "\n\tat org.apache.Y.z(Y.java:2)\n"
    )
    assert python_traceback(java).endswith("by zero [while running 'Divide']")
    assert python_traceback("a.B: c\n\tat d\nCaused by: e.F: reason\n\tat g") == "e.F: reason"
    ours = "a.B: c\n\tat d\nCaused by: org.beamk8s.runner.kafka.WriteFailure: all is said\n\tat g"
    assert python_traceback(ours) == "all is said"
