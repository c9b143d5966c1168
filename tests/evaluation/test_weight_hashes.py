"""Hashes of extractor weights."""

import pytest
import torch
from safetensors.torch import save_file

from bench.evaluation.extractors import weight_hashes


@pytest.fixture
def weights(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"weights")
    return tmp_path / "w.pth"


def test_a_file_is_read_once(weights, monkeypatch):
    reads, file_sha256 = [], weight_hashes.file_sha256
    monkeypatch.setattr(weight_hashes, "file_sha256", lambda path: reads.append(path) or file_sha256(path))
    assert weight_hashes.hash_weights(weights) == weight_hashes.hash_weights(weights) == file_sha256(weights)
    assert len(reads) == 1


def test_changed_weights_have_another_hash(weights):
    first = weight_hashes.hash_weights(weights)
    weights.write_bytes(b"other weights")
    assert weight_hashes.hash_weights(weights) != first


def test_safetensors_headers_are_not_hashed(tmp_path):
    tensors = {"a": torch.ones(3)}
    save_file(tensors, tmp_path / "one.safetensors")
    save_file(tensors, tmp_path / "two.safetensors", metadata={"note": "x"})
    assert len({weight_hashes.hash_weights(tmp_path / f"{name}.safetensors") for name in ("one", "two")}) == 1
