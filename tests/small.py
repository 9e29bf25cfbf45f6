"""A convolutional energy with batch norm and dropout, and images for it."""

import torch
from torch import nn


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 36, 1)
    )


def images(n=6):
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(1))
