"""Feature extractor without weights, for tests."""

import torch
from torch_fidelity.feature_extractor_base import FeatureExtractorBase


class Mean(FeatureExtractorBase):
    """Features are the mean colours; an image whose first pixel is 255 has NaN features."""

    def __init__(self):
        super().__init__("mean", ["mean"])
        self.weight = torch.nn.Parameter(torch.ones(1))

    @staticmethod
    def get_provided_features_list():
        return ("mean",)

    def forward(self, x):
        mean = x.float().mean((2, 3)) * self.weight
        return (torch.where(x[:, :1, 0, 0] == 255, torch.nan, mean),)
