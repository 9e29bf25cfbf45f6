"""A network that learns, with its optimiser and its average."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

SLACK = 0.1  # of a bound in sigmas, by which a gradient may exceed a second moment that is still zero


class Part:
    """One network that learns: its optimiser, its learning rate, and the running average of its weights.

    Args:
        network: what learns.
        optimizer: of its parameters.
        rate: the learning rate of an iteration.
        average: decay of the exponential average of the weights, in [0, 1); 0 keeps none.
        max_grad_norm: largest L2 norm of each parameter's gradient; 0 sets no bound.
        max_grad_sigmas: bound of every element of a gradient, `max_grad_sigmas * sqrt(v) + 0.1`, v Adam's second moment
            before the step without its bias; 0 sets no bound. Source: the code of IGEBM (2019).
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        rate: Callable[[int], float],
        average: float = 0.0,
        max_grad_norm: float = 0.0,
        max_grad_sigmas: float = 0.0,
    ) -> None:
        self.network, self.optimizer, self.rate = network, optimizer, rate
        self.max_grad_norm, self.max_grad_sigmas = max_grad_norm, max_grad_sigmas
        self.average = None
        if average:
            here = next(network.parameters()).device
            self.average = AveragedModel(network, here, multi_avg_fn=get_ema_multi_avg_fn(average), use_buffers=True)

    @property
    def evaluated(self) -> nn.Module:
        """The network as samples and scores use it: with averaged weights, where there is an average; in eval mode."""
        return (self.network if self.average is None else self.average.module).eval()

    def descend(self, loss: Tensor) -> float:
        """One step of the optimiser down a loss, whose value it returns."""
        self.optimizer.zero_grad()
        loss.backward()
        for weight in self.network.parameters() if self.max_grad_norm else ():
            nn.utils.clip_grad_norm_(weight, self.max_grad_norm)
        if self.max_grad_sigmas:
            self._bound_elements()
        self.optimizer.step()
        return loss.item()

    def _bound_elements(self) -> None:
        """Clamp each element of each gradient to +-(max_grad_sigmas * sqrt(v / (1 - beta2^t)) + 0.1)."""
        for group in self.optimizer.param_groups:
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                bound, moments = SLACK, self.optimizer.state.get(weight)
                if moments:
                    unbiased = moments["exp_avg_sq"] / (1 - group["betas"][1] ** moments["step"].double())
                    bound = self.max_grad_sigmas * unbiased.sqrt() + SLACK
                weight.grad.clamp_(-bound, bound)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Every tensor of the part under one name each."""
        moments = self.optimizer.state_dict()["state"]
        named = {f"{name}.{key}": tensor for key, tensor in self.network.state_dict().items()}
        named |= {f"{name}_optimizer.{i}.{key}": t for i, entry in moments.items() for key, t in entry.items()}
        if self.average is not None:
            named |= {f"{name}_average.{key}": tensor for key, tensor in self.average.state_dict().items()}
        return named

    def shapes(self, name: str, begun: bool) -> dict[str, Tensor]:
        """Tensors like those that `tensors` gives, whose optimiser has taken its first step or not."""
        named = {key: t for key, t in self.tensors(name).items() if not key.startswith(f"{name}_optimizer.")}
        for i, parameter in enumerate(self.optimizer.param_groups[0]["params"] if begun else ()):
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            moments = {"step": step, "exp_avg": parameter, "exp_avg_sq": parameter}
            named |= {f"{name}_optimizer.{i}.{key}": tensor for key, tensor in moments.items()}
        return named

    def restore(self, name: str, named: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        self.network.load_state_dict(_below(f"{name}.", named))
        if self.average is not None:
            self.average.load_state_dict(_below(f"{name}_average.", named))
        parameters, moments = self.optimizer.param_groups[0]["params"], {}
        for key, tensor in _below(f"{name}_optimizer.", named).items():
            index, moment = key.split(".")
            if tensor.dim():  # in its parameter's memory order: Adam rounds by it
                tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
            moments.setdefault(int(index), {})[moment] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})


def _below(prefix: str, named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}
