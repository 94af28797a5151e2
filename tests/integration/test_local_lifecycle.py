"""The local target's processes: they start, are stopped by process id, and never outlive what they are for."""

import signal
import subprocess
import sys
import textwrap
from contextlib import closing
from importlib.util import find_spec

import psutil
import pytest

from beam_k8s.launcher.control import Control
from beam_k8s.launcher.local import SessionCluster
from tests.cluster.launch import Launch, await_gone

FOREVER = """
    import sys
    import apache_beam as beam
    import beam_k8s
    from apache_beam.transforms.periodicsequence import PeriodicImpulse

    if __name__ == "__main__":
        with beam.Pipeline(argv=sys.argv) as p:
            p | PeriodicImpulse(fire_interval=1) | beam.Map(lambda x: print("tick", x, flush=True))
"""

BROKEN = """
    import sys
    import apache_beam as beam
    import beam_k8s

    def divide(x):
        return 1 // x

    if __name__ == "__main__":
        with beam.Pipeline(argv=[*sys.argv, "--save_main_session"]) as p:
            p | beam.Create([1, 0]) | "Divide it" >> beam.Map(divide)
"""

UNLOADABLE = """
    import os, sys
    import apache_beam as beam
    import beam_k8s

    class OnlyHere:
        def __reduce__(self):
            return load, (os.getpid(),)

    def load(pid):
        if pid != os.getpid():
            raise ImportError("not on this worker")
        return OnlyHere()

    only_here = OnlyHere()
    if __name__ == "__main__":
        with beam.Pipeline(argv=[*sys.argv, "--save_main_session"]) as p:
            p | beam.Create([1]) | beam.Map(lambda x: x + 1)
"""

PACKAGED = """
    import sys
    import apache_beam as beam
    import beam_k8s

    def from_package(x):
        import mine
        return mine.ANSWER * x

    if __name__ == "__main__":
        with beam.Pipeline(argv=sys.argv) as p:
            p | beam.Create([1]) | beam.Map(from_package) | beam.Map(lambda n: print("mine says", n))
"""

SLOW_BATCH = """
    import sys
    import apache_beam as beam
    import beam_k8s

    def slowly(x):
        import time
        print("at", x, flush=True)
        time.sleep(0.2)
        return x

    if __name__ == "__main__":
        with beam.Pipeline(argv=sys.argv) as p:
            numbers = p | beam.Create(range(20)) | beam.Map(slowly)
            numbers | beam.CombineGlobally(sum) | beam.Map(lambda n: print("sum", n))
"""

FLAGS = ["--runner=FlinkK8s", "--k8s_target=local"]


@pytest.fixture
def launch(tmp_path):
    """Starts a script; afterwards nothing of it runs."""
    launched = []

    def start(source, *flags, **environment):
        script = tmp_path / "my_pipeline.py"
        script.write_text(textwrap.dedent(source))
        launched.append(Launch(script, [*FLAGS, *flags], tmp_path, environment))
        return launched[-1]

    yield start
    for one in launched:
        one.kill_all()


def beam_k8s(launch, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "beam_k8s", *arguments],
        env={"XDG_STATE_HOME": str(launch.home / "state"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_ctrl_c_detaches_and_cancel_stops_the_job_and_all_its_processes(launch):
    run = launch(FOREVER, "--job_name=forever")
    run.await_output("forever is RUNNING")
    run.await_output(r"\[worker \d+\] tick")
    run.interrupt()
    assert run.wait() == -signal.SIGINT
    assert "Stop it with: beam-k8s cancel forever" in run.output
    processes = run.processes()
    assert {"supervisor", "TaskManagerRunner", "transforms.boot"} <= {
        word for word in ("supervisor", "TaskManagerRunner", "transforms.boot") if run.processes(word)
    }

    assert (run.run_dirs[0] / "job" / "options.json").exists()
    second = launch(FOREVER, "--job_name=forever")
    assert second.wait() != 0
    assert "--job_name=forever: a job of this name runs here already" in second.output

    assert beam_k8s(run, "cancel", "forever").returncode == 0
    await_gone(processes)
    assert not run.processes()
    assert not (run.run_dirs[0] / "job" / "options.json").exists()
    again = beam_k8s(run, "cancel", "forever")
    assert again.returncode == 4
    assert "no job forever runs on this machine" in again.stderr


def test_a_detached_job_that_is_done_leaves_nothing(launch):
    run = launch(SLOW_BATCH, "--job_name=alone")
    run.await_output(r"\[worker \d+\] at \d")
    run.interrupt()
    assert run.wait() == -signal.SIGINT
    await_gone(run.processes())
    assert not run.run_dirs


def test_a_job_in_a_session_cluster_can_be_cancelled_after_ctrl_c_and_is_not_waited_for_in_vain(launch, tmp_path):
    with SessionCluster(tmp_path / "session") as cluster:
        run = launch(FOREVER, "--job_name=guest", f"--flink_master={cluster.address}", "--sdk_worker_parallelism=1")
        run.await_output(r"\[worker \d+\] tick")
        run.interrupt()
        assert run.wait() == -signal.SIGINT
        assert "Stop it with: beam-k8s cancel guest" in run.output
        assert beam_k8s(run, "cancel", "guest").returncode == 0
        assert beam_k8s(run, "cancel", "guest").returncode == 4
        assert not (run.run_dirs[0] / "job" / "options.json").exists()
        left = launch(FOREVER, "--job_name=left", f"--flink_master={cluster.address}", "--sdk_worker_parallelism=1")
        left.await_output(r"\[worker \d+\] tick")
    assert left.wait() == 1
    assert "the session cluster at" in left.output


def test_a_job_that_is_cancelled_from_elsewhere_is_cancelled_and_not_failed(launch):
    run = launch(FOREVER, "--job_name=elsewhere")
    run.await_output("elsewhere is RUNNING")
    assert beam_k8s(run, "cancel", "elsewhere").returncode == 0
    assert run.wait() == 1
    assert "JobFailed: job elsewhere ended in state CANCELLED" in run.output


@pytest.mark.parametrize("victim", ["launcher", "supervisor", "launcher that just starts"])
def test_nothing_outlives_a_launcher_or_supervisor_that_was_killed(launch, victim):
    run = launch(FOREVER, "--job_name=crash")
    if victim == "launcher that just starts":
        run.await_output("crash starts")
        while not (processes := run.processes("supervisor")):
            assert run.process.poll() is None
    else:
        run.await_output("crash is RUNNING")
        run.await_output(r"\[worker \d+\] tick")
        processes = run.processes()
    if victim == "supervisor":
        run.processes("supervisor")[0].kill()
    else:
        run.process.kill()
    await_gone(processes)
    assert not run.processes()
    assert beam_k8s(run, "cancel", "crash").returncode == 4  # nothing is left that could be taken for a job
    assert run.wait() != 0


def test_a_failing_dofn_shows_its_traceback_and_leaves_nothing_running(launch):
    run = launch(BROKEN, "--job_name=broken")
    assert run.wait() == 1
    assert "in divide" in run.output
    assert "ZeroDivisionError: integer division or modulo by zero [while running 'Divide it" in run.output
    assert "JobFailed: job broken ended in state FAILED" in run.output
    assert not run.processes()


def test_the_workers_have_the_users_packages_and_his_environment_has_not(launch, tmp_path):
    package = tmp_path / "source"
    package.mkdir()
    (package / "mine.py").write_text("ANSWER = 42")
    (package / "setup.py").write_text("import setuptools; setuptools.setup(name='mine', py_modules=['mine'])")
    run = launch(PACKAGED, "--job_name=packaged", f"--setup_file={package}/setup.py")
    assert run.wait() == 0, run.output
    assert "mine says 42" in run.output
    assert find_spec("mine") is None


def test_a_batch_job_survives_a_worker_that_was_killed(launch):
    run = launch(SLOW_BATCH, "--job_name=slow-batch")
    run.await_output(r"\[worker \d+\] at \d")
    (worker,) = run.processes("TaskManagerRunner")
    worker.kill()
    assert run.wait() == 0, run.output
    assert "slow-batch restarts after a failure" in run.output
    assert "sum 190" in run.output
    assert not run.processes()


def test_a_main_session_that_the_worker_cannot_load_fails_the_job_and_says_why(launch):
    run = launch(UNLOADABLE, "--job_name=unloadable")
    assert run.wait() == 1
    assert "ImportError: not on this worker" in run.output
    assert "The main session (--save_main_session) cannot be loaded by the worker." in run.output
    assert "JobFailed: job unloadable ended in state FAILED" in run.output
    assert not run.processes()


def test_workers_come_and_go_by_scale(launch):
    run = launch(FOREVER, "--job_name=scaled")
    run.await_output("scaled is RUNNING")
    with closing(Control.of_run(run.run_dirs[0])) as control:
        oldest, *leaving = map(psutil.Process, control.ask(op="scale", workers=3)["taskmanagers"])
        assert len(leaving) == 2
        leaving[1].suspend()  # a TaskManager that hangs: it never follows SIGTERM
        assert control.ask(op="scale", workers=1)["taskmanagers"] == [oldest.pid]
        await_gone(leaving)
    assert run.processes("TaskManagerRunner") == [oldest]
    assert "Traceback" not in run.output
