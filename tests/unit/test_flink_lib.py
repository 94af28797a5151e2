"""Which of the folders named ``pyflink`` on the import path is Flink."""

from __future__ import annotations

import pytest

from beam_k8s.errors import LocalClusterError
from beam_k8s.launcher import local


class _Spec:
    def __init__(self, folders):
        self.submodule_search_locations = [str(folder) for folder in folders]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    found = [tmp_path / "mine" / "pyflink", tmp_path / "installed" / "pyflink"]
    for folder in found:
        (folder / "lib").mkdir(parents=True)
    (found[0] / "lib" / "flink-connector-jdbc.jar").touch()
    monkeypatch.setattr(local, "find_spec", lambda _: _Spec(found))
    return found


def test_a_folder_of_other_jars_does_not_hide_flink(folders):
    (folders[1] / "lib" / "flink-dist-1.19.3.jar").touch()
    assert local._flink_lib() == folders[1] / "lib"


@pytest.mark.usefixtures("folders")
def test_other_jars_alone_are_no_flink():
    with pytest.raises(LocalClusterError, match="not installed"):
        local._flink_lib()
