"""Fixtures for all tests."""

import os
import shutil
import subprocess
import tempfile
import zlib
from io import BytesIO
from pathlib import Path

import pytest
import torch

from architectures import IOSpec
from bench.data import sources
from bench.terminal.log import configure_logging

torch.set_num_threads(1)
configure_logging()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Run the longest files first, and mark the tests of LONG_FILES, which `make check` leaves out.

    A worker runs one file at a time, so a long file must not start last.
    """
    items.sort(key=lambda item: item.path.name not in LONGEST)
    for item in items:
        if item.path.name in LONG_FILES:
            item.add_marker(pytest.mark.long)


LONG_FILES = {
    f"test_{name}.py"
    for name in (
        "adm_selftest",
        "atomic",
        "comparison",
        "contract",
        "execution",
        "fid_infinity",
        "figure_definitions",
        "generation",
        "inception_dinov2",
        "job_chains",
        "latent_workers",
        "lease",
        "matching",
        "metric_goldens",
        "official",
        "official_state_dicts",
        "page_html",
        "page_in_browser",
        "pretrained_weights",
        "published_costs",
        "reference_speed",
        "registry",
        "run_matching",
        "samplers",
        "slurm",
        "submission_check",
        "suites",
        "svg",
        "throughput",
        "trainer",
        "uncertainty",
    )
}
"""Unit tests that build many networks, train, draw or start processes: more than some 10 s of CPU time a file."""


LONGEST = [
    f"test_{name}.py"
    for name in (
        "interruptions",
        "run",
        "slurm_cluster",
        "kills",
        "distributed",
        "job_chains",
        "latent_runs",
        "latent_workers",
        "published_costs",
    )
]


@pytest.fixture(scope="session")
def digits():
    return sources.load_dataset("digits")


@pytest.fixture
def io():
    return IOSpec(channels=1, size=8, num_classes=10)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Cache folder with the digits CNN, trained once per session."""
    from bench.evaluation.extractors import extractor_registry

    results = tmp_path_factory.mktemp("results")
    extractor_registry.prepare_weights("digits-cnn", "", results / "cache")
    return results / "cache"


@pytest.fixture
def results(tmp_path, cache):
    """Empty results folder whose cache holds the digits CNN."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "cache").symlink_to(cache)
    return tmp_path / "results"


@pytest.fixture(scope="session")
def inception(tmp_path_factory):
    """File of torch-fidelity's Inception with seeded weights, named for its hash."""
    from bench.storage import atomic

    folder = tmp_path_factory.mktemp("weights")
    torch.save(seeded_inception(), folder / "weights.pth")
    path = folder / f"seeded-{atomic.file_sha256(folder / 'weights.pth')[:8]}.pth"
    (folder / "weights.pth").rename(path)
    return path


def seeded_inception():
    """Return a seeded state dict of torch-fidelity's Inception whose features differ between images."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Bare(FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict):
            """Skip loading: there are no weights yet."""

    empty = BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    state = Bare("bare", ["2048"], feature_extractor_weights_path=empty).state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, value in state.items():
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("conv.weight"):
            state[name] = noise * (2 / value[0].numel()) ** 0.5
        elif name.endswith("bn.bias"):
            state[name] = 0.1 * noise
        elif name == "fc.weight":
            state[name] = 0.05 * noise
    return state


@pytest.fixture(scope="session")
def slurm_cluster():
    """State folder of a SLURM for this checkout and pytest worker; a SLURM left by an earlier run is stopped first.

    Skips where SLURM cannot run; fails instead if REQUIRE_SLURM=1.
    """
    root = Path(__file__).parent.parent
    owner = f"{root} {os.environ.get('PYTEST_XDIST_WORKER', '')}"
    state = Path(tempfile.gettempdir()) / f"bench-slurm-test-{zlib.crc32(owner.encode()):08x}"

    def dev_cluster(do):
        command = [root / "slurm" / "dev-cluster", do, "--state", state]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    dev_cluster("down")
    try:
        up = dev_cluster("up")
        if up.returncode == 2 and os.environ.get("REQUIRE_SLURM") != "1":
            pytest.skip(f"no SLURM here: {up.stderr.strip()}")
        assert up.returncode == 0, up.stderr
        yield state
    finally:
        dev_cluster("down")


@pytest.fixture
def slurm(slurm_cluster, monkeypatch):
    """State folder of a running SLURM that this test's processes use; all jobs are cancelled after the test."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster / "slurm.conf"))
    yield slurm_cluster
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster / "slurm.conf"))  # a test may have changed it
    subprocess.run(["scancel", "-u", "root"], timeout=60)


@pytest.fixture
def short_path():
    """Empty folder whose path is short enough for Unix sockets (tmp_path may be too long)."""
    path = Path(tempfile.mkdtemp(prefix="bench-"))
    yield path
    shutil.rmtree(path)
