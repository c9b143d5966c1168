"""torch-fidelity's extractors with published weights: Inception of 2015, and DINOv2 ViT-L/14.

Weights come by path or from torch's cache, are hashed, hold tensors only, and are never downloaded.
What torch-fidelity lacks is added: Inception's spatial features for sFID, and DINOv2 from local files.

B batch, F features.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from bench.storage.atomic import file_sha256

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_HASH = "6726825d"
DINOV2_FILE = "dinov2_vitl14_pretrain.pth"
DINOV2_HASH = "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"
DINOV2_CODE = "facebookresearch_dinov2_main"
SPATIAL_CHANNELS = 7


class InceptionV3(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception, with the layer `spatial` besides its own.

    `spatial` is ADM's node mixed_6/conv, the 1x1 branch of Mixed_6d after its ReLU: the first 7
    channels of the 17x17 map, (B, 2023), in TensorFlow's order (row, column, channel), so that
    stored mu_s and sigma_s fit.
    """

    def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
        kwargs["feature_extractor_weights_path"] = tensors_only_copy(Path(kwargs["feature_extractor_weights_path"]))
        try:
            super().__init__(name, features_list, **kwargs)
        except RuntimeError as error:
            raise ValueError(f"the Inception weights do not fit torch-fidelity's network: {error}") from None
        self.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def _keep(self, _module: Any, _inputs: Any, output_BCHW: Tensor) -> None:
        self.spatial = output_BCHW[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1).float()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (*FeatureExtractorInceptionV3.get_provided_features_list(), "spatial")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        wanted: list[str] = self.__dict__["features_list"]
        self.features_list = [name for name in wanted if name != "spatial"] or ["768"]
        try:
            given = dict(zip(self.features_list, super().forward(x), strict=True))
        finally:
            self.features_list = wanted
        given["spatial"] = self.spatial
        return tuple(given[name] for name in wanted)


class DinoV2(FeatureExtractorDinoV2):
    """torch-fidelity's DINOv2, built from torch.hub's cached code and a file of weights, offline.

    torch-fidelity itself would fetch both from the network, and takes no path.
    """

    def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
        FeatureExtractorBase.__init__(self, name, features_list)
        weights = torch.load(tensors_only_copy(Path(kwargs["feature_extractor_weights_path"])), weights_only=True)
        self.feature_extractor_internal_dtype = torch.float32
        self.model = torch.hub.load(str(dinov2_code_folder()), "dinov2_vitl14", source="local", pretrained=False)
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"the DINOv2 weights do not fit the network in {dinov2_code_folder()}: {error}") from None
        self.requires_grad_(False)
        self.eval()


def tensors_only_copy(path: Path) -> io.BytesIO:
    """A file of weights as bytes that are safe to unpickle; ValueError where it holds more than tensors.

    torch-fidelity loads with weights_only=False, so it gets what this wrote, never the file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and for unsafe files
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a file of tensors (damaged, or not weights): {reason}") from None
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def is_published_hash(hash_: str) -> bool:
    """Whether a hash is that of published weights."""
    return hash_.startswith((INCEPTION_HASH, DINOV2_HASH))


def check_weights_hash(path: Path, expected: str, what: str) -> Path:
    """The path, if its SHA-256 starts with the expected digits or with those in its own name.

    A name such as NAME-1a2b3c4d.pth, torch.hub's convention, says that other weights are meant.
    """
    found = file_sha256(path)
    own = re.search(r"-([0-9a-f]{8,64})\.pth$", path.name)
    if found.startswith(expected) or (own and found.startswith(own[1])):
        return path
    raise ValueError(
        f"{path} has the SHA-256 {found[:16]}..., and {what} {expected[:16]}...: it is damaged or another file; "
        f"to use other weights on purpose, name them for their own hash, NAME-{found[:8]}.pth"
    )


def find_inception_weights(given: str, cache: Path) -> Path:
    """torch-fidelity's 2015 Inception weights, by path or in torch's cache; never downloaded here."""
    path = Path(given) if given else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        raise ValueError(
            f"the Inception weights {INCEPTION_FILE} (torch-fidelity's release v0.2.0; their SHA-256 starts with "
            f"{INCEPTION_HASH}) are not at {path}: put the file there, or name it with --weights PATH "
            "(bench.evaluate) or --set evaluation.weights=PATH"
        )
    return check_weights_hash(path, INCEPTION_HASH, "the published Inception weights")


def find_dinov2_weights(given: str, cache: Path) -> Path:
    """DINOv2's ViT-L/14 weights, by path or in torch's cache, and torch.hub's copy of its code."""
    path = Path(given) if given else Path(torch.hub.get_dir()) / "checkpoints" / DINOV2_FILE
    if not path.is_file():
        raise ValueError(
            f"the DINOv2 weights {DINOV2_FILE} (SHA-256 {DINOV2_HASH[:16]}...) are not at {path}: "
            "put the file there, or name it with --dinov2-weights PATH"
        )
    if not (dinov2_code_folder() / "hubconf.py").is_file():
        raise ValueError(
            f"DINOv2's code is not in {dinov2_code_folder()}: put a checkout of "
            "github.com/facebookresearch/dinov2 there, "
            "which is what torch-fidelity's extractor loads through torch.hub"
        )
    return check_weights_hash(path, DINOV2_HASH, "the published DINOv2 weights")


def dinov2_code_folder() -> Path:
    return Path(torch.hub.get_dir()) / DINOV2_CODE
