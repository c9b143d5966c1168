"""Adapter that makes the small CNNs available as torch-fidelity extractors.

B batch, C channels, F features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from bench.evaluation.extractors.small_cnn import DESIGNS, FEATURE_WIDTH, SmallCNN


class SmallCnnExtractor(FeatureExtractorBase):
    """Small CNN that takes uint8 images (B, C, H, W) with one channel or three equal ones.

    Images of another size than the CNN's input are resized by adaptive average pooling.
    """

    def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
        super().__init__(name, features_list)
        self.design = DESIGNS[name]
        self.net = SmallCNN(self.design)
        self.net.load_state_dict(load_file(kwargs["feature_extractor_weights_path"]))

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (str(FEATURE_WIDTH), "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else str(FEATURE_WIDTH)

    @staticmethod
    def can_be_compiled() -> bool:
        return True

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 3, 32, 32, dtype=torch.uint8)

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        x = input[:, : self.design.channels].float()
        if x.shape[-1] != self.design.image_size:
            x = F.adaptive_avg_pool2d(x, self.design.image_size)
        features_BF, logits = self.net(x / 127.5 - 1)
        features = {str(FEATURE_WIDTH): features_BF, "logits": logits}
        return tuple(features[name] for name in self.features_list)


for design_name in DESIGNS:
    if design_name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(design_name, SmallCnnExtractor)
