"""One energy of every kind that has a formula."""

import torch

from hatebm.energies import DoubleWell, Funnel, Gaussian, Mixture


def spread(d, seed=0):
    """A symmetric positive matrix that couples all elements."""
    root = torch.randn(d, d, generator=torch.Generator().manual_seed(seed))
    return root @ root.T / d + torch.eye(d)


def energies(d):
    """One energy of every kind, for samples of d elements."""
    torch.manual_seed(d)
    return {
        "diagonal": Gaussian(torch.randn(d), torch.rand(d) + 0.1),
        "full": Gaussian(torch.randn(d), spread(d)),
        "mixture": Mixture(2 * torch.randn(3, d), [0.5, 1.0, 2.0], [0.2, 0.3, 0.5]),
        "well": DoubleWell(2.0, 1.5),
        "funnel": Funnel(),
    }


KINDS = list(energies(1))


def of_kind(kind, d):
    return energies(d)[kind]
