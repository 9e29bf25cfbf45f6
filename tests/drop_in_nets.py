"""The small nets that the drop-in loops sample from."""

import itertools

import torch
from torch import nn


class Critic(nn.Sequential):
    """A small convolutional net of 1 x 6 x 6 images with a dropout that only eval mode turns off."""

    def __init__(self, gain, outputs=1):
        convolution = nn.Conv2d(1, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1), nn.SiLU()
        super().__init__(*convolution, nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 36, outputs))
        self[-1].weight.data.mul_(gain)


class Classifier(Critic):
    """log sum exp of a classifier's logits."""

    def forward(self, x):
        """(n,), high = likely."""
        return super().forward(x).logsumexp(1)


class Negative(nn.Module):
    """A score (high = likely) as an energy; a module, so that a chain sees what it holds."""

    def __init__(self, score):
        super().__init__()
        self.score = score

    def forward(self, *state):
        """Low = likely."""
        return -self.score(*state)


class Hat(nn.Module):
    """H(G(z) + y)."""

    def __init__(self, gain):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(5, 36), nn.Tanh(), nn.Unflatten(1, (1, 6, 6)))
        self.hat = Critic(gain)

    def forward(self, z, y):
        """(n, 1), low = likely."""
        return self.hat(self.generator(z) + y)


def mlp(*widths):
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
    return nn.Sequential(*layers[:-1])


def log_normal(z, mean, log_sigma):
    """The log density of N(mean, sigma^2) summed over each sample, up to a constant."""
    r = (z - mean) / log_sigma.exp()
    return (-0.5 * r * r - log_sigma).flatten(1).sum(1)


class JointPrior(nn.Module):
    """exp(f1(z1) + f2(z2)) p(z1 | z2) p(z2); its batch norm knows train mode from eval mode."""

    def __init__(self):
        super().__init__()
        self.f1, self.f2 = mlp(6, 16, 1), mlp(4, 16, 1)
        self.conditional = nn.Sequential(mlp(4, 16, 16), nn.BatchNorm1d(16), nn.Linear(16, 12))

    def log_f(self, z1, z2):
        return (self.f1(z1) + self.f2(z2)).squeeze(1)

    def log_p(self, z1, z2):
        mean, log_sigma = self.conditional(z2).chunk(2, 1)
        return log_normal(z1, mean, log_sigma) + log_normal(z2, torch.zeros_like(z2), torch.zeros_like(z2))

    def forward(self, z1, z2):
        """The energy; f comes first, so that autograd adds its gradient last, as the loop does."""
        return -(self.log_f(z1, z2) + self.log_p(z1, z2))


class JointPosterior(JointPrior):
    """The same with log p(x | z1)."""

    def __init__(self, x):
        super().__init__()
        self.generator, self.x = mlp(6, 16, 36), x

    def log_p(self, z1, z2):
        return -((self.generator(z1) - self.x.flatten(1)) ** 2).sum(1) / (2 * 0.3**2) + super().log_p(z1, z2)


class TwoStage(nn.Module):
    """The log density of the noises of two groups, z2 an image that depends on z1."""

    def __init__(self):
        super().__init__()
        self.f1, self.f2 = mlp(3, 16, 1), Critic(1)
        self.conditional = nn.Sequential(mlp(3, 16, 72), nn.Unflatten(1, (2, 6, 6)))

    def forward(self, eps1, eps2):
        """(n,), high = likely."""
        mean, log_sigma = self.conditional(eps1).chunk(2, 1)
        z2 = mean + log_sigma.exp() * eps2
        log_p = log_normal(eps1, 0, torch.zeros_like(eps1)) + log_normal(z2, mean, log_sigma)
        return (self.f1(eps1) + self.f2(z2)).squeeze(1) + log_p


class ScoreNet(nn.Module):
    """A score for every noise level."""

    def __init__(self, levels):
        super().__init__()
        self.into, self.out = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.level = nn.Embedding(levels, 8)

    def forward(self, x, labels):
        """Shaped like x."""
        return self.out(nn.functional.silu(self.into(x) + self.level(labels)[:, :, None, None]))
