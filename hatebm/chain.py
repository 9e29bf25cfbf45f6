"""Chains that live: advance, save, restore, go on, bit for bit."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hatebm.checks import STEPS, check_like, check_state, checked_chain_ids, checked_draw, require
from hatebm.dynamics import Dynamics
from hatebm.freeze import MODES, frozen, modules_of
from hatebm.gradient import energy_and_gradient, given_gradient
from hatebm.health import Watch
from hatebm.library import langevin_step_
from hatebm.noise import Purpose

State = Tensor | tuple[Tensor, ...]
OPEN = {"low": -math.inf, "high": math.inf}
NOTHING = {"diverged": None, "grad_norm": None}


class Chain:
    r"""n Langevin chains: x <- clamp(x - step_size * clip(grad E / T + prior_precision * x) + noise_std * eps).

    Chain c at step t draws its noise from (seed, c, t) alone, so a chain is the same chain in any batch and after
    any restart.

    Args:
        energy: callable or module, (n, \*sample) to (n,) or a scalar, low = likely; called with every block of a
            tuple state. None with ``grad_fn``.
        x: the initial state, float32 (float64 runs on the reference), (n, \*sample), or a tuple of such blocks.
        dynamics: the law; or give its fields as keywords, see :class:`hatebm.Dynamics`.
        seed: 64-bit seed of the noise; None draws one from torch's generator.
        chain_ids: (n,) ids of the chains in [0, 2^40); default 0..n-1.
        first_step: absolute index of the first step: schedules and noise go by it.
        energy_kwargs: keyword arguments of the energy, a dict or a callable of the step.
        grad_fn: the gradient itself (minus the score) in place of autograd: grad_fn(\*state, \*\*kwargs).
        mode: "eval", "train" or "keep": in which mode modules run; put back afterwards.
        noise: callable of the step that returns the standard normals, a tuple for a tuple state.
        nan: "raise" :class:`hatebm.ChainDiverged` at the end of a run, or "ignore".
        backend: one of ``hatebm.backends()``; None takes the fastest that can run.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
    """

    def __init__(
        self,
        energy: Callable[..., Tensor] | None,
        x: State,
        dynamics: Dynamics | None = None,
        *,
        seed: int | None = None,
        chain_ids: Tensor | Sequence[int] | None = None,
        first_step: int = 0,
        energy_kwargs: dict[str, Any] | Callable[[int], dict[str, Any]] | None = None,
        grad_fn: Callable[..., Any] | None = None,
        mode: str = "eval",
        noise: Callable[[int], Any] | None = None,
        nan: str = "raise",
        backend: str | None = None,
        **law: Any,
    ) -> None:
        require(dynamics is None or not law, "langevin", "dynamics", f"given alone, without {sorted(law)}", dynamics)
        require(isinstance(dynamics, Dynamics | None), "langevin", "dynamics", "a Dynamics", dynamics, TypeError)
        require(energy is not None or grad_fn is not None, "langevin", "energy", "a callable, or grad_fn one", energy)
        for name, function in (("energy", energy), ("grad_fn", grad_fn), ("noise", noise)):
            require(function is None or callable(function), "langevin", name, "callable", function, TypeError)
        require(mode in MODES, "langevin", "mode", f"one of {MODES}", mode)
        require(nan in ("raise", "ignore"), "langevin", "nan", "'raise' or 'ignore'", nan)
        self.dynamics = Dynamics(**law) if dynamics is None else dynamics
        self.seed = int(torch.randint(1 << 62, ())) if seed is None else seed
        self._energy, self._grad_fn, self._noise = energy, grad_fn, noise
        self._kwargs = energy_kwargs if callable(energy_kwargs) else lambda t, given=dict(energy_kwargs or {}): given
        self._mode, self._nan, self._backend = mode, nan, backend
        self._single = isinstance(x, Tensor)
        self._state = _checked_state(x)
        self._laws = self.dynamics.for_blocks(len(self._state))
        self._settings = [law.settings() for law in self._laws]
        n, device = len(self._state[0]), self._state[0].device
        self._chain_ids = checked_chain_ids("langevin", chain_ids, n, device)
        self.seed, self.step = checked_draw("langevin", self.seed, first_step, 0, 0, device)

    @property
    def state(self) -> State:
        """A copy of the state."""
        return self._shaped([x.clone() for x in self._state])

    def run(
        self,
        n_steps: int,
        *,
        callback: Callable[[int, State], None] | None = None,
        every: int = 1,
        return_info: bool = False,
    ) -> State | tuple[State, dict[str, Tensor]]:
        """Advance by ``n_steps`` and return the new state, a tensor of the caller's own.

        Args:
            n_steps: number of steps, >= 0.
            callback: called as callback(t, state) after each step t that ``every`` divides, with a copy of the state.
            every: of how many steps one is kept for ``callback`` and info.
            return_info: also return a dict of tensors over the kept steps t: "step" (kept,), and (kept, n) "energy"
                where step t took its gradient, "grad_norm" of grad E / T + prior_precision * x there, and
                "displacement", the distance moved; L2 norms over all blocks.

        Raises:
            ChainDiverged: a NaN or Inf, with its step and chains; the chain is left as it was before the run.
            ValueError: a schedule that is too short, or an argument out of range.
        """
        require(isinstance(n_steps, int) and n_steps >= 0, "langevin", "n_steps", "an integer >= 0", n_steps)
        require(isinstance(every, int) and every > 0, "langevin", "every", "an integer > 0", every)
        end = self.step + n_steps
        require(end <= STEPS, "langevin", "n_steps", "small enough to stay below step 2^40", n_steps)
        for law in self._laws:
            law.check_length(end)
        kept: list[dict[str, Any]] = []
        with frozen(modules_of(self._energy, self._grad_fn), self._mode):
            state = [x.clone() for x in self._state]
            watch = Watch(len(state[0]), state[0].device) if self._nan == "raise" and n_steps else None
            for t in range(self.step, end):
                record = {} if return_info and t % every == 0 else None
                self._advance(t, state, watch, record)
                if record is not None:
                    kept.append({"step": torch.tensor(t), **record})
                if callback is not None and t % every == 0:
                    callback(t, self._shaped([x.clone() for x in state]))
            if watch is not None:
                watch.see_state(end - 1, state)
                watch.check(self._chain_ids)
            self._state, self.step = state, end
            result = self._shaped([self._boxed(k, x) for k, x in enumerate(state)])
        return (result, self._gathered(kept)) if return_info else result

    def state_dict(self) -> dict[str, Any]:
        """State, step, seed and chain ids as tensors and numbers; loads with ``weights_only=True``."""
        n = len(self._state[0])
        ids = torch.arange(n) if self._chain_ids is None else self._chain_ids.clone()
        return {"state": self.state, "step": self.step, "seed": self.seed, "chain_ids": ids}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned.

        Raises:
            ValueError: a key that is missing, or a state that does not have this chain's blocks.
        """
        wanted = {"state", "step", "seed", "chain_ids"}
        require(set(saved) == wanted, "load_state_dict", "saved", f"a dict of {sorted(wanted)}", sorted(saved))
        device = self._state[0].device
        parts = (saved["state"],) if isinstance(saved["state"], Tensor) else saved["state"]
        state = _checked_state(tuple(x.to(device) for x in parts))
        same = [x.shape[1:] for x in state] == [x.shape[1:] for x in self._state]
        require(same, "load_state_dict", "state", "blocks shaped like the chain's", [tuple(x.shape) for x in state])
        ids = checked_chain_ids("load_state_dict", saved["chain_ids"], len(state[0]), device)
        default = torch.equal(ids.cpu(), torch.arange(len(state[0])))
        self._state, self.step, self.seed = state, saved["step"], saved["seed"]
        self._chain_ids = None if default else ids

    def _advance(self, t: int, state: list[Tensor], watch: Watch | None, record: dict[str, Tensor] | None) -> None:
        """Step t in place: noise that comes first, gradient, move; all blocks at once, or one after the other."""
        now = [law.at(t) for law in self._laws]
        moving = [k for k, (step_size, noise_std, _) in enumerate(now) if step_size != 0 or noise_std != 0]
        groups = ([moving] if self.dynamics.blocks == "joint" else [[k] for k in moving]) if moving else []
        noise = self._given_noise(t, state)
        before = None if record is None else [x.clone() for x in state]
        grad_norms = [] if record is None else [x.new_zeros(len(x)) for x in state]
        for group in groups:
            for k in group:
                self._kick(t, k, state[k], now[k], noise[k])
            energies, grads = self._gradient(t, state, group)
            if watch is not None and energies is not None:
                watch.see_energy(t, energies)
            for k, grad in zip(group, grads, strict=True):
                gathered = {"diverged": watch and watch.first, "grad_norm": grad_norms[k] if grad_norms else None}
                self._move(t, k, state[k], grad, now[k], noise[k], gathered)
        if record is not None:
            if groups and energies is not None:
                record["energy"] = energies.expand(len(state[0]))
            record["grad_norm"] = torch.stack(grad_norms).norm(dim=0)
            moved = [(x - old).reshape(len(x), x[:1].numel()) for x, old in zip(state, before, strict=True)]
            record["displacement"] = torch.cat(moved, 1).norm(dim=1)

    def _kick(self, t: int, k: int, x: Tensor, now: tuple[float, float, float], noise: Tensor | None) -> None:
        """The noise of a law that adds it before the gradient is taken."""
        law = self._laws[k]
        if law.noise_at == "before" and now[1] != 0:
            alone = {"step_size": 0.0, "noise_std": now[1], "inverse_temperature": 1.0, "add": "sequential"}
            box = {} if law.clamp_at == "noise+step" else OPEN
            self._step(t, k, x, None, noise, alone | box | NOTHING)

    def _move(
        self,
        t: int,
        k: int,
        x: Tensor,
        grad: Tensor,
        now: tuple[float, float, float],
        noise: Tensor | None,
        gathered: dict[str, Tensor | None],
    ) -> None:
        law, (step_size, noise_std, temperature) = self._laws[k], now
        noise_std = noise_std if law.noise_at == "after" else 0.0
        moves = {"step_size": step_size, "noise_std": noise_std, "inverse_temperature": 1.0 / temperature}
        box = OPEN if law.clamp_at == "final" else {}
        self._step(t, k, x, grad, noise, moves | box | gathered)

    def _step(
        self, t: int, k: int, x: Tensor, grad: Tensor | None, noise: Tensor | None, changes: dict[str, Any]
    ) -> None:
        place = {"seed": self.seed, "step": t, "block": k, "purpose": Purpose.LANGEVIN, "chain_ids": self._chain_ids}
        unused = {"gz": None, "image": None, "displacement": None}
        settings = self._settings[k] | changes | place | unused | {"noise": noise}
        langevin_step_(x, grad, self._backend, **settings)

    def _given_noise(self, t: int, state: list[Tensor]) -> Sequence[Tensor | None]:
        if self._noise is None:
            return [None] * len(state)
        drawn = self._noise(t)
        noise = (drawn,) if isinstance(drawn, Tensor) else drawn
        for eps, x in zip(noise, state, strict=True):
            check_like("langevin", "noise", eps, x, (x.dtype,))
        return noise

    def _gradient(self, t: int, state: list[Tensor], group: list[int]) -> tuple[Tensor | None, list[Tensor]]:
        if self._grad_fn is not None:
            return None, given_gradient(self._grad_fn, state, group, self._kwargs(t))
        return energy_and_gradient(self._energy, state, group, self._kwargs(t))

    def _boxed(self, k: int, x: Tensor) -> Tensor:
        low, high = self._settings[k]["low"], self._settings[k]["high"]
        return x.clamp(low, high) if self._laws[k].clamp_at == "final" else x.clone()

    def _shaped(self, state: list[Tensor]) -> State:
        return state[0] if self._single else tuple(state)

    def _gathered(self, kept: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        names = kept[0] if kept else ("step", "energy", "grad_norm", "displacement")
        empty = {"step": torch.empty(0, dtype=torch.int64)}
        rows = self._state[0].new_empty(0, len(self._state[0]))
        return {name: torch.stack([row[name] for row in kept]) if kept else empty.get(name, rows) for name in names}


def _checked_state(x: State) -> list[Tensor]:
    blocks = (x,) if isinstance(x, Tensor) else x
    require(isinstance(blocks, tuple) and len(blocks) > 0, "langevin", "x", "a tensor or a tuple of tensors", x)
    for block in blocks:
        require(isinstance(block, Tensor), "langevin", "x", "a tensor or a tuple of tensors", block, TypeError)
    with torch.inference_mode(False), torch.no_grad():
        state = [block.detach().clone() for block in blocks]
    for block in state:
        check_state("langevin", block)
        same = len(block) == len(state[0]) and block.device == state[0].device
        require(same, "langevin", "x", "blocks with one number of chains on one device", block)
    return state
