"""A small convolutional classifier, fitted on real images to judge sampled ones."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatebm.nets.layers import conv3, dense


class Classifier(nn.Module):
    """Class scores of an image; its penultimate layer gives the features of a Frechet distance.

    pixels: (n, channels, h, w) in [-1, 1], h and w at least 8; scores: (n, classes); features: (n, 32).
    """

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.body = nn.Sequential(
            conv3(channels, 32), nn.ReLU(),
            conv3(32, 32), nn.ReLU(),
            nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            dense(32 * 16, 32), nn.ReLU(),
        )  # fmt: skip
        self.head = dense(32, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.body(pixels))

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Penultimate activations, (n, 32)."""
        return self.body(pixels)

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> Tensor:
        """The likeliest class of each image, (n,) int64."""
        return self(pixels).argmax(1)

    @classmethod
    def fit(cls, pixels: Tensor, labels: Tensor, *, epochs: int = 15, batch: int = 64, seed: int = 0) -> "Classifier":
        """Fit by cross-entropy with Adam on slightly noisy images; the global random state is left as it was.

        pixels: (n, channels, h, w) in [-1, 1]; labels: (n,) int64, every class from 0 to the largest label.
        """
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            classifier = cls(pixels.shape[1], int(labels.max()) + 1)
            optimizer = torch.optim.Adam(classifier.parameters(), 2e-3)
            for _ in range(epochs):
                for index in torch.randperm(len(pixels), dtype=torch.int64, device="cpu").split(batch):
                    noisy = pixels[index] + 0.1 * torch.randn_like(pixels[index])
                    optimizer.zero_grad()
                    F.cross_entropy(classifier(noisy), labels[index]).backward()
                    optimizer.step()
        return classifier.eval()


def class_shares(predicted: Tensor, classes: int) -> Tensor:
    """Share of each class among predicted labels: (n,) int64 -> (classes,), summing to 1."""
    return torch.bincount(predicted, minlength=classes).float() / len(predicted)
