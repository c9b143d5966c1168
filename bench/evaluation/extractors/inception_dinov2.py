"""torch-fidelity's extractors with published weights: Inception of 2015 and DINOv2 ViT-L/14.

Weights are read from a path or from torch's cache and never downloaded.  Their hash is checked, and only tensors are
unpickled.  Two things are added to torch-fidelity: Inception's spatial features for sFID, and DINOv2 from local files.

B batch, C channels, H height, W width, F features.
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

from bench.evaluation.extractors.weight_hashes import hash_weights

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_HASH = "6726825d"
DINOV2_FILE = "dinov2_vitl14_pretrain.pth"
DINOV2_HASH = "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"
DINOV2_CODE = "facebookresearch_dinov2_main"
SPATIAL_CHANNELS = 7


class InceptionV3(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception with the additional layer `spatial` (sFID, arXiv:2103.03841).

    `spatial` is ADM's node mixed_6/conv: the 1x1 branch of Mixed_6d after its ReLU.  It holds the first 7 channels of
    the 17x17 map, (B, 2023), in TensorFlow's order (row, column, channel), as mu_s and sigma_s of ADM's files.
    """

    def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
        kwargs["feature_extractor_weights_path"] = tensors_only_copy(Path(kwargs["feature_extractor_weights_path"]))
        try:
            super().__init__(name, features_list, **kwargs)
        except RuntimeError as error:
            raise ValueError(f"the Inception weights do not fit torch-fidelity's network: {error}") from None
        self.Mixed_6d.branch1x1.register_forward_hook(self._store_spatial)

    def _store_spatial(self, _module: Any, _inputs: Any, output_BCHW: Tensor) -> None:
        self.spatial = output_BCHW[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1).float()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (*FeatureExtractorInceptionV3.get_provided_features_list(), "spatial")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        wanted: list[str] = self.__dict__["features_list"]
        self.features_list = [name for name in wanted if name != "spatial"] or ["768"]
        try:
            features = dict(zip(self.features_list, super().forward(x), strict=True))
        finally:
            self.features_list = wanted
        features["spatial"] = self.spatial
        return tuple(features[name] for name in wanted)


class DinoV2(FeatureExtractorDinoV2):
    """torch-fidelity's DINOv2, built offline from torch.hub's cached code and a file of weights.

    torch-fidelity's own constructor takes no path and downloads both.
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
    """Rewrite a file of weights as bytes that are safe to unpickle; ValueError if it holds more than tensors.

    torch-fidelity loads with weights_only=False, so it is given this copy and never the file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged and for unsafe files
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a file of tensors (damaged, or not weights): {reason}") from None
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def is_published_hash(sha256: str) -> bool:
    """Return whether a hash is that of the published Inception or DINOv2 weights."""
    return sha256.startswith((INCEPTION_HASH, DINOV2_HASH))


def check_weights_hash(path: Path, expected: str, what: str) -> Path:
    """Return the path if its SHA-256 starts with the expected digits or with those in its name; else ValueError.

    torch.hub's convention NAME-1a2b3c4d.pth states which other weights are intended.
    """
    sha256 = hash_weights(path)
    named = re.search(r"-([0-9a-f]{8,64})\.pth$", path.name)
    if sha256.startswith(expected) or (named and sha256.startswith(named[1])):
        return path
    raise ValueError(
        f"{path} has the SHA-256 {sha256[:16]}..., and {what} {expected[:16]}...: it is damaged or another file; "
        f"to use other weights on purpose, name them for their own hash, NAME-{sha256[:8]}.pth"
    )


def find_inception_weights(file: str, cache: Path) -> Path:
    """Find torch-fidelity's Inception weights of 2015 at a path or ("") in torch's cache; `cache` is not used.

    ValueError if there is no such file, or its hash is neither the published one nor that in its name.
    """
    path = Path(file) if file else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        raise ValueError(
            f"the Inception weights {INCEPTION_FILE} (torch-fidelity's release v0.2.0; their SHA-256 starts with "
            f"{INCEPTION_HASH}) are not at {path}: put the file there, or name it with --weights PATH "
            "(bench.evaluate) or --set evaluation.weights=PATH"
        )
    return check_weights_hash(path, INCEPTION_HASH, "the published Inception weights")


def find_dinov2_weights(file: str, cache: Path) -> Path:
    """Find DINOv2's ViT-L/14 weights at a path or ("") in torch's cache; `cache` is not used.

    ValueError as `find_inception_weights`, or if torch.hub has no copy of DINOv2's code.
    """
    path = Path(file) if file else Path(torch.hub.get_dir()) / "checkpoints" / DINOV2_FILE
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
    """Return the folder in torch.hub's cache where DINOv2's code is expected."""
    return Path(torch.hub.get_dir()) / DINOV2_CODE
