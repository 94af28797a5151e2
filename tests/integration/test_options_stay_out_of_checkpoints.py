"""No option of the user is in any checkpoint, yet every DoFn reads them all; stock Beam's job main leaks them."""

import json
import re
import sys
import textwrap
import time
from pathlib import Path

import cramjam
import pytest
import requests

from beam_k8s.launcher.local import SessionCluster, runner_jar
from beam_k8s.launcher.supervisor import newest_checkpoint
from tests.cluster.checkpoints import occurrences, snappy_frames
from tests.cluster.launch import Launch

MARKER = "ZZZPLANTED"
KEEP = "state.checkpoints.num-retained"
PLANTED = [f"--planted_{i}={MARKER}_{i}" for i in range(100)]

PIPELINE = """
    import sys
    import apache_beam as beam
    import beam_k8s
    from apache_beam.transforms import window
    from apache_beam.transforms.periodicsequence import PeriodicImpulse
    from apache_beam.transforms.userstate import CombiningValueStateSpec

    class Count(beam.DoFn):
        SEEN = CombiningValueStateSpec("seen", sum)

        def setup(self):  # imports all it needs: no main session, which stock Beam would have to stage
            import json, os
            from apache_beam.options.value_provider import RuntimeValueProvider

            with open(os.environ["SEEN_FILE"], "w") as file:
                json.dump(RuntimeValueProvider.runtime_options, file, default=str)

        def process(self, element, seen=beam.DoFn.StateParam(SEEN)):
            seen.add(1)
            yield element[0], seen.read()

    if __name__ == "__main__":
        with beam.Pipeline(argv=[*sys.argv[1:], "--streaming"]) as p:
            (
                p
                | PeriodicImpulse(fire_interval=0.1)
                | beam.Map(lambda x: ("key", 1))
                | beam.WindowInto(window.FixedWindows(1))
                | beam.CombinePerKey(sum)
                | beam.ParDo(Count())
            )
"""


@pytest.fixture
def run(tmp_path):
    """Runs the pipeline until a checkpoint has completed after a DoFn saw its options; gives folder and options."""
    script = tmp_path / "my_pipeline.py"
    script.write_text(textwrap.dedent(PIPELINE))
    seen = tmp_path / "seen.json"
    launched = []

    def until_checkpoint(checkpoints, *flags):
        launch = Launch(script, [*flags, *PLANTED], tmp_path, {"SEEN_FILE": str(seen)})
        launched.append(launch)
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            assert launch.process.poll() is None, launch.output
            newest = newest_checkpoint(checkpoints) if checkpoints.exists() else None
            if seen.exists() and newest and newest.stat().st_mtime > seen.stat().st_mtime + 1:
                return newest, json.loads(seen.read_text()), launch
            time.sleep(0.2)
        raise AssertionError(launch.output)

    yield until_checkpoint
    for launch in launched:
        launch.kill_all()


def take_savepoint(run_dir, folder):
    """Ask the run's Flink for a savepoint; gives its folder."""
    port = re.search(r'^rest.port: "(\d+)"', (run_dir / "conf" / "config.yaml").read_text(), re.MULTILINE)[1]
    jobs = f"http://127.0.0.1:{port}/jobs"
    job = f"{jobs}/{requests.get(jobs, timeout=30).json()['jobs'][0]['id']}/savepoints"
    trigger = requests.post(job, json={"target-directory": f"file://{folder}"}, timeout=30).json()["request-id"]
    deadline = time.monotonic() + 60
    while (answer := requests.get(f"{job}/{trigger}", timeout=30).json())["status"]["id"] != "COMPLETED":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return Path(answer["operation"]["location"].removeprefix("file:"))


def test_no_planted_option_is_in_our_checkpoints_but_the_dofn_reads_all(run, tmp_path):
    storage = tmp_path / "storage"
    newest, options, launch = run(
        storage,
        "--runner=FlinkK8s",
        "--k8s_target=local",
        "--job_name=planted",
        f"--k8s_storage=file://{storage}",
        "--checkpointing_interval=500",
        f"--k8s_flink_conf={KEEP}=100",
    )
    assert {f"planted_{i}": f"{MARKER}_{i}" for i in range(100)}.items() <= options.items()
    metadata = (newest / "_metadata").read_bytes()
    assert sum(map(len, snappy_frames(metadata))) > 1000, "the decoder found no snapshot to look into"
    savepoint = take_savepoint(launch.run_dirs[0], storage / "savepoints")
    assert sum(map(len, snappy_frames((savepoint / "_metadata").read_bytes()))) > 1000
    assert occurrences(storage, MARKER) == (0, 0)
    launch.interrupt()
    launch.wait()
    for folder in ("logs", "conf", "archive"):
        assert occurrences(launch.run_dirs[0] / folder, MARKER) == (0, 0)


@pytest.mark.slow  # it shows that the test above would see a leak; nothing of ours can break it
def test_stock_beams_job_main_leaks_every_planted_option(run, tmp_path):
    cluster_dir = tmp_path / "cluster"
    harness = tmp_path / "harness"
    harness.write_text(
        f'#!/bin/sh\nexport SEEN_FILE={tmp_path}/seen.json\nexec {sys.executable} -m beam_k8s.transforms.boot "$@"\n'
    )
    harness.chmod(0o755)
    with SessionCluster(cluster_dir, conf={KEEP: "100"}) as cluster:
        newest, _, _ = run(
            cluster_dir / "checkpoints",
            "--runner=FlinkRunner",
            f"--flink_master=http://{cluster.address}",
            "--flink_submit_uber_jar",
            f"--flink_job_server_jar={runner_jar()}",
            "--environment_type=PROCESS",
            "--environment_config=" + json.dumps({"command": str(harness)}),
            "--checkpointing_interval=500",
            "--finish_bundle_before_checkpointing",
        )
        found = [occurrences(newest, f'{MARKER}_{i}"') for i in range(100)]
    assert all(compressed > 0 for _, compressed in found), found


def test_the_decoder_finds_what_a_grep_misses():
    text = MARKER.encode() * 300
    raw = bytes(cramjam.snappy.compress_raw(text))
    framed = b"junk" + b"\x82SNAPPY\x00" + bytes(8) + len(raw).to_bytes(4, "big") + raw + b"junk"
    assert list(snappy_frames(framed)) == [text]
