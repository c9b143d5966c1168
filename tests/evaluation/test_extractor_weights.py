"""Files of extractor weights: damaged, missing and hostile ones, and those of DINOv2."""

import json
import sys

import pytest
import torch

from bench.evaluation.extractors import inception_dinov2
from bench.storage import atomic


class Code:
    """What a hostile file of weights would hold."""

    def __reduce__(self):
        return (print, ("run by unpickling",))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"short", "has the SHA-256 f9b0078b5df596d2..., and the published Inception weights 6726825d"),
        ({"fc": torch.zeros(1)}, "do not fit torch-fidelity's network"),
        ({"fc": Code()}, "cannot be read as a file of tensors"),
    ],
)
def test_wrong_inception_weights_are_one_sentence(content, sentence, tmp_path, image_pair, command, capsys):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
        path = path.rename(tmp_path / f"named-{atomic.file_sha256(path)[:8]}.pth")
    words = [image_pair[0], "--reference", image_pair[1], "--weights", path]
    status, out, err = command(*words, extractor="inception-v3-compat")
    assert status == 2 and sentence in err and "run by unpickling" not in out + err


def test_missing_weights_name_file_hash_and_folder(tmp_path, image_pair, command, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    status, _, err = command(image_pair[0], "--reference", image_pair[1], extractor="inception-v3-compat")
    assert status == 2
    assert "weights-inception-2015-12-05-6726825d.pth" in err and "SHA-256 starts with 6726825d" in err
    assert str(tmp_path / "hub" / "checkpoints") in err and "--weights PATH" in err


HUB = """
import torch
def dinov2_vitl14(*, pretrained=True):
    assert not pretrained, "this would download"
    return torch.nn.Sequential(torch.nn.AvgPool2d(56), torch.nn.Flatten(), torch.nn.Linear(48, 5))
"""


@pytest.fixture
def dinov2(tmp_path, monkeypatch):
    """torch's cache with a small network in place of DINOv2's code, and seeded weights named for their hash."""
    code = tmp_path / "hub" / inception_dinov2.DINOV2_CODE
    code.mkdir(parents=True)
    (code / "hubconf.py").write_text(HUB)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    generator = torch.Generator().manual_seed(0)
    weights = {"2.weight": torch.randn(5, 48, generator=generator), "2.bias": torch.zeros(5)}
    torch.save(weights, tmp_path / "weights.pth")
    name = f"dinov2-{atomic.file_sha256(tmp_path / 'weights.pth')[:8]}.pth"
    yield (tmp_path / "weights.pth").rename(tmp_path / name)
    sys.modules.pop("hubconf", None)


def test_fd_dinov2_needs_only_local_files(image_pair, command, dinov2, inception_of_means):
    words = [
        image_pair[0],
        "--reference",
        image_pair[1],
        "--metrics",
        "fd-dinov2",
        "fid",
        "--dinov2-weights",
        dinov2,
        "--json",
    ]
    status, out, _ = command(*words, extractor=inception_of_means)
    result = json.loads(out)
    assert status == 0 and set(result["metrics"]) == {"fid", "fd_dinov2"}
    assert result["metrics"]["fd_dinov2"]["value"] > 0 and result["metrics"]["fd_dinov2"]["interval"]
    assert result["extractors"]["dinov2-vit-l-14"]["file"] == dinov2.name


def test_missing_dinov2_is_one_sentence(image_pair, command, dinov2, inception_of_means):
    words = [image_pair[0], "--reference", image_pair[1], "--metrics", "fd-dinov2"]
    status, _, err = command(*words, extractor=inception_of_means)
    assert status == 2 and "dinov2_vitl14_pretrain.pth" in err and "d5383ea8f4877b24" in err
    (dinov2.parent / "hub" / inception_dinov2.DINOV2_CODE / "hubconf.py").unlink()
    status, _, err = command(*words, "--dinov2-weights", dinov2, extractor=inception_of_means)
    assert status == 2 and "DINOv2's code is not in" in err
