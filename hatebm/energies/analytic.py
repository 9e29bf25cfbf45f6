"""What every energy with a formula has in common: how it is called, and how its chains run."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hatebm.energies.kernel import LONGEST, MOST_COMPONENTS, Formula
from hatebm.energies.steps import Steps
from hatebm.ops.backend import kernels_for, module_for
from hatebm.ops.checks import describe, is_dense, require
from hatebm.ops.library import is_traced

HUGE = 1e37  # what an energy known to be finite stays below, a thirtieth of the largest float32
FAR = 1e18  # and its elements


class Analytic(nn.Module, ABC):
    r"""An energy with a formula: samples (n, \*sample) to energies (n,).

    A float32 tensor on the CPU, or on a GPU with at most 1024 elements a sample, meets one explicit formula, the
    energy's and the gradient's, whose bits do not depend on the batch, the threads or the machine; chains of at most
    1024 elements then run all their steps in one kernel. Elsewhere (float64, other devices, torch.func, torch.compile)
    the energy is plain torch, and so are second derivatives everywhere.
    """

    kind: ClassVar[str]
    components = 1  # of a mixture
    takes_proposals = True  # whether :meth:`advance_` tests steps, and moves by velocities

    @abstractmethod
    def plain(self, rows: Tensor) -> Tensor:
        """The energies of rows, (n, d), in torch's own operations."""

    @abstractmethod
    def exact(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Energies and gradient by the explicit formula, in PyTorch: the specification of the kernel."""

    @abstractmethod
    def formula(self, d: int) -> Formula:
        """The energy of chains of d elements as the kernel takes it."""

    @abstractmethod
    def reach(self, d: int) -> tuple[float, ...]:
        """Up to which |x| the energy and its gradient are known to be finite; then the same for element 0."""

    def checked_size(self, d: int) -> bool | str:
        """True where samples may have d elements, or how many they must have."""
        return d > 0 or "at least one element a sample"

    def forward(self, x: Tensor) -> Tensor:
        name = type(self).__name__
        require(isinstance(x, Tensor) and is_dense(x), name, "x", "a dense tensor", x, TypeError)
        require(x.is_floating_point(), name, "x", "floating-point", x, TypeError)
        require(x.dim() > 0, name, "x", r"(n, *sample) with a leading chain dimension", x)
        rows = x.reshape(len(x), x[:1].numel() if len(x) else x.shape[1:].numel())
        fits = self.checked_size(rows.shape[1])
        require(fits is True, name, "x", fits, x)
        return self.plain(rows) if self.unfit(rows) else _Energy.apply(rows, self)

    def look(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Energies and gradient by the explicit formula, from the kernel where it is built."""
        kernels = kernels_for(None, rows.device)
        return kernels.look(self.formula(rows.shape[1]), rows) if kernels else self.exact(rows)

    def unfit(self, x: Tensor) -> str | None:
        """Why the explicit float32 formula does not take x; None where it does."""
        numbers = list(self.buffers())
        if torch.compiler.is_compiling() or any(is_traced(v) or _is_wrapped(v) for v in (x, *numbers)):
            return "a tensor that torch traces or transforms"
        device = x.device
        here = device.type in ("cpu", "cuda") and all(v.device == device for v in numbers)
        if x.dtype != torch.float32 or not here:
            return f"{describe(x)}, not float32 on the CPU or a GPU beside the energy's own numbers"
        if device.type == "cuda" and (reason := self._unfit_for_gpus(x)):
            return reason
        return "a buffer that wants a gradient" if any(v.requires_grad for v in numbers) else None

    def _unfit_for_gpus(self, x: Tensor) -> str | None:
        if kernels_for(None, x.device) is None:
            return "no kernels for GPUs are built"
        if x[:1].numel() > LONGEST or self.components > MOST_COMPONENTS:
            return f"more than {LONGEST} elements a sample, or {MOST_COMPONENTS} components, on a GPU"
        return None

    def can_advance(self, x: Tensor, steps: Steps) -> str | None:
        """Why whole runs of these steps are not for the kernel; None where they are."""
        d = _size(x)
        if "kind" not in vars(type(self)):
            return "a class of your own, whose forward may say more"
        if not 0 < d <= LONGEST:
            return f"chains of {d} elements, not of 1 to {LONGEST}"
        return self.unfit(x)

    def advance_(self, x: Tensor, steps: Steps) -> Tensor:
        """Take the steps in place, in one kernel; (n,) the first bad step of each chain."""
        d = _size(x)
        kernels = module_for("whole_chains_", steps.backend, x.device)
        return kernels.whole_chains_(self.formula(d), self.reach(d), x, steps)


class _Energy(torch.autograd.Function):
    """Energies whose gradient is the explicit one."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, energy: Analytic) -> Tensor:
        energies, gradient = energy.look(rows)
        ctx.energy = energy
        ctx.save_for_backward(rows, gradient)
        return energies

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        rows, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():
            gradient = _Gradient.apply(rows, ctx.energy)
        return upstream[:, None] * gradient, None


class _Gradient(torch.autograd.Function):
    """The explicit gradient, whose own derivative is plain torch."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, energy: Analytic) -> Tensor:
        ctx.energy = energy
        ctx.save_for_backward(rows)
        return energy.look(rows)[1]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            rows = ctx.saved_tensors[0] if again else ctx.saved_tensors[0].detach().requires_grad_()
            gradient = torch.autograd.grad(ctx.energy.plain(rows).sum(), rows, create_graph=True)[0]
            return torch.autograd.grad(gradient, rows, upstream, create_graph=again)[0], None


def _size(x: Tensor) -> int:
    """How many elements a chain has; 0 where there is no chain."""
    return x.numel() // (x.shape[0] or 1)


def _is_wrapped(v: Tensor) -> bool:
    return torch._C._functorch.is_functorch_wrapped_tensor(v)
