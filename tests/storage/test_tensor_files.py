import pytest
import torch

from bench.storage import tensor_files


def tensors(value=0.0):
    return {"model.w": torch.full((4, 3), value), "ema.w": torch.ones(2), "optimizer.0.step": torch.tensor(5.0)}


def test_a_checkpoint_round_trips(tmp_path):
    tensor_files.save_tensors(tmp_path / "a.safetensors", tensors(), step=3)
    loaded, metadata = tensor_files.load_tensors(tmp_path / "a.safetensors")
    assert metadata == {"step": 3}
    assert all(torch.equal(loaded[k], v) for k, v in tensors().items())


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "a.safetensors"
    tensor_files.save_tensors(path, tensors())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="damaged"):
        tensor_files.load_tensors(path)


def test_a_flipped_bit_is_detected(tmp_path):
    path = tmp_path / "a.safetensors"
    tensor_files.save_tensors(path, tensors())
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="checksum"):
        tensor_files.load_tensors(path)


def test_a_damaged_checkpoint_falls_back_to_the_previous_one(tmp_path):
    tensor_files.save_tensors(tmp_path / "01.safetensors", tensors(1.0), images=1)
    tensor_files.save_tensors(tmp_path / "02.safetensors", tensors(2.0), images=2)
    (tmp_path / "02.safetensors").write_bytes(b"torn")
    loaded, metadata, warnings = tensor_files.load_newest_checkpoint(tmp_path)
    assert metadata["images"] == 1 and loaded["model.w"][0, 0] == 1
    assert len(warnings) == 1 and "02.safetensors" in warnings[0]


def test_only_damaged_checkpoints_are_an_error(tmp_path):
    assert tensor_files.load_newest_checkpoint(tmp_path) is None
    (tmp_path / "02.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="--fresh"):
        tensor_files.load_newest_checkpoint(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    tensor_files.save_tensors(path, tensors(1.0))

    def torn(tensors, partial, metadata):
        partial.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(tensor_files, "save_file", torn)
    with pytest.raises(OSError):
        tensor_files.save_tensors(path, tensors(2.0))
    assert tensor_files.load_tensors(path)[0]["model.w"][0, 0] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_prune_keeps_the_newest_checkpoints(tmp_path):
    for i in range(5):
        tensor_files.save_tensors(tmp_path / f"{i}.safetensors", tensors())
    tensor_files.prune_checkpoints(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3.safetensors", "4.safetensors"]


def test_digests_are_those_of_committed_records():
    strided = torch.arange(6.0).reshape(2, 3).t().contiguous().t()
    some = {"b": strided, "a": torch.tensor(5), "h": torch.ones(2).half()}
    assert tensor_files.tensors_crc32(some) == "a7b2d6c2"
    assert tensor_files.tensors_sha256(some).startswith("b39c6d003d80db0193b2")
    assert tensor_files.tensors_sha256(some, dtypes=False).startswith("127f981c75625f7d")
    assert tensor_files.tensors_sha256(some, prefix=b"{}").startswith("bf73e4b99e01f7f4")
