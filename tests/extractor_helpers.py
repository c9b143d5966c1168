"""Images as torch-fidelity takes them, and the features of images in memory."""

import numpy as np
import torch
from torch.utils.data import Dataset

from bench.evaluation.extractors.extractor_registry import EXTRACTORS, build_network, extract_features


class ImageDataset(Dataset):
    """uint8 images (N, 1 or 3, H, W) as single images of three channels."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return torch.from_numpy(np.array(self.images[index : index + 1][0])).expand(3, -1, -1)


def features_of_images(name, weights, images, batch=256):
    """{layer: (N, F)} of uint8 images (N, 1 or 3, H, W)."""
    net = build_network(name, weights, EXTRACTORS[name].layers.values())
    parts = [extract_features(net, np.array(images[i : i + batch], order="C")) for i in range(0, len(images), batch)]
    return {layer: torch.from_numpy(np.concatenate([p[layer] for p in parts])) for layer in parts[0]}
