"""What is staged for the workers: requirements once, and no secret in the main session."""

import subprocess
import sys
import textwrap

import pytest

from beam_k8s.launcher import staging


@pytest.mark.parametrize(
    ("requirements", "pinned"),
    [
        ("six==1.16.0\n# why\nidna[all] == 3.7 ; python_version > '3'\n", True),
        ("six", False),
        ("six>=1\nidna==3.7", False),
        ("six==1.*", False),
        ("-r other.txt\nsix==1.16.0", False),
        ("./folder", False),
        ("", False),
    ],
)
def test_only_what_is_pinned_is_the_same_tomorrow(requirements, pinned):
    assert staging._is_pinned(requirements) is pinned


def test_pinned_requirements_are_installed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = []

    def pip(what, target):  # its real twin: tests/integration/test_images.py
        calls.append(what)
        target.mkdir()
        (target / "six.py").write_text("")

    monkeypatch.setattr(staging, "_pip_install", pip)
    file = tmp_path / "requirements.txt"
    file.write_text("six==1.16.0\n")
    for name in ("one", "two"):
        staging._install_requirements(file, tmp_path / name)
        assert (tmp_path / name / "six.py").is_file()
    assert len(calls) == 1
    file.write_text("six\n")
    for name in ("three", "four"):
        staging._install_requirements(file, tmp_path / name)
    assert len(calls) == 3


def test_the_main_sessions_options_are_the_workers_and_not_in_the_file(tmp_path):
    main = tmp_path / "main.py"
    main.write_text(
        textwrap.dedent(
            """
            import json, os, pathlib, sys
            from apache_beam.internal import pickler
            from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions
            from beam_k8s.launcher.staging import stage

            if len(sys.argv) > 1:
                options = PipelineOptions(["--password=hunter2-ZZZ", "--save_main_session"])
                folder = pathlib.Path(sys.argv[1])
                stage(options, folder)
                assert b"hunter2-ZZZ" not in (folder / "pickled_main_session").read_bytes()
                assert options.view_as(SetupOptions).save_main_session
            """
        )
    )
    worker = (
        "import sys; from apache_beam.internal import pickler; pickler.load_session(sys.argv[1]);"
        "print(__import__('__main__').options.get_all_options(retain_unknown_options=True)['password'])"
    )
    subprocess.run([sys.executable, str(main), str(tmp_path)], check=True, cwd=tmp_path)
    told = {"PIPELINE_OPTIONS": '{"beam:option:password:v1": "hunter2-ZZZ"}'}
    session = str(tmp_path / "pickled_main_session")
    done = subprocess.run(
        [sys.executable, "-c", worker, session], check=True, capture_output=True, text=True, env=told, cwd=tmp_path
    )
    assert done.stdout.strip() == "hunter2-ZZZ"
