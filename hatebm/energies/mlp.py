"""Energies of a multilayer perceptron."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from hatebm.ops.checks import require
from hatebm.ops.scalars import checked_shape

MOST = 1 << 31  # units of a layer
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "elu": nn.ELU,
}


class MLP(nn.Module):
    r"""E(x) = w_L a(W_{L-1} ... a(W_1 x + b_1) ... + b_{L-1}) + b_L, (n, d) to (n,).

    Its chains run in one kernel. So do those of a ``torch.nn.Sequential`` of the same layers, with a
    ``Flatten()`` before them or none.

    Args:
        widths: d, then the width of each hidden layer.
        activation: "relu", "leaky_relu" (slope 0.01), "silu", "softplus", "tanh", "gelu" (x Phi(x), by erf),
            "gelu_tanh" (its approximation by tanh) or "elu"; or a module of torch.nn that is one of these.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
    """

    def __init__(self, widths: Sequence[int], activation: str | nn.Module = "silu") -> None:
        super().__init__()
        wanted = "two or more integers > 0: d and the hidden layers"
        widths = checked_shape("MLP", "widths", widths, wanted, MOST)
        require(len(widths) >= 2 and 0 not in widths, "MLP", "widths", wanted, widths)
        known = isinstance(activation, nn.Module) or (isinstance(activation, str) and activation in ACTIVATIONS)
        require(known, "MLP", "activation", f"one of {tuple(ACTIVATIONS)} or a module", activation)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            between = activation if isinstance(activation, nn.Module) else ACTIVATIONS[activation]()
            layers += [nn.Linear(inputs, outputs), between]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        """The energy of each sample."""
        return self.layers(x).squeeze(-1)
