"""Backbone outside the registry that sleeps in training, so that tests can interrupt it."""

import os
import time

from torch import nn
from torch.nn.functional import silu

from architectures.embeddings import TimestepEmbedding


class Slow(nn.Module):
    """Two convolutions with time and label; sleeps NAP seconds in every training step."""

    def __init__(self, io, *, width=16):
        super().__init__()
        self.stem = nn.Conv2d(io.channels, width, 3, padding=1)
        self.time = TimestepEmbedding(width)
        self.label = nn.Embedding(io.label_rows, width)
        self.out = nn.Conv2d(width, io.out_channels, 3, padding=1)

    def forward(self, x, t, cond=None):
        time.sleep(float(os.environ.get("NAP", 0)) if self.training else 0.0)
        shift = (self.time(t) + self.label(cond))[:, :, None, None]
        return self.out(silu(self.stem(x) + shift))
