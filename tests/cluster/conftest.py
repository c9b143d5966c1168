"""Fixtures of the tests of SLURM clients and run states."""

import subprocess

import pytest
from fake_slurm import FakeSlurm


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Clients of SLURM whose answers a test sets."""
    return FakeSlurm(tmp_path / "bin", monkeypatch)


@pytest.fixture
def ended():
    """The id of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid
