"""The copy of the code that jobs import."""

import json
import os
import subprocess
import sys

import grimp
import pytest

from bench.cluster import code_snapshot
from bench.storage.paths import ROOT


def test_a_code_copy_knows_its_commit(tmp_path):
    code = code_snapshot.copy_code(tmp_path)
    words = "from bench.cluster import code_snapshot; import json; print(json.dumps(code_snapshot.code_version()))"
    env = {**os.environ, "PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", words], env=env, capture_output=True, text=True, check=True, cwd="/")
    assert json.loads(done.stdout) == code_snapshot.code_version()


def test_a_missing_module_is_named(tmp_path):
    with pytest.raises(ValueError, match="no module 'nowhere' can be found"):
        code_snapshot.copy_code(tmp_path, ["nowhere"])


def test_jobs_read_no_data_file_which_the_copy_lacks():
    sources = (path for path in (ROOT / "bench").rglob("*.py") if path.name != "paths.py")
    readers = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources if "data_file(" in path.read_text()
    ]
    graph = grimp.build_graph("bench")
    assert "bench.cluster.profiles" in readers
    assert [m for m in readers if graph.chain_exists(importer="bench.runs.job", imported=m)] == []
