"""torch-fidelity's face of the small CNNs.

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
    """A small CNN; takes uint8 images, one channel or three equal ones.

    Larger images than the CNN's are averaged down to it.
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
        if x.shape[-1] != self.design.side:
            x = F.adaptive_avg_pool2d(x, self.design.side)
        features_BF, logits = self.net(x / 127.5 - 1)
        given = {str(FEATURE_WIDTH): features_BF, "logits": logits}
        return tuple(given[name] for name in self.features_list)


for known in DESIGNS:
    if known not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(known, SmallCnnExtractor)
