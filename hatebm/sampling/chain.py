"""Chains that live: advance, save, restore, go on, bit for bit."""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hatebm.dynamics.blocks import Blocks
from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.health import Watch
from hatebm.dynamics.law import Dynamics
from hatebm.dynamics.laws import Laws
from hatebm.dynamics.lazy import settle
from hatebm.dynamics.noise import Noise
from hatebm.dynamics.region import Region
from hatebm.dynamics.transitions import checked_form, transition_of
from hatebm.energies.closure import modules_of
from hatebm.energies.composition import check_bounded, negations_in
from hatebm.energies.modes import MODES, bare, in_mode
from hatebm.engine import Engine, through_compile
from hatebm.engine.whole import WholeRuns
from hatebm.ops.backend import check_backend
from hatebm.ops.checks import STEPS, checked_choice, checked_mask, require
from hatebm.ops.library import is_traced
from hatebm.ops.noise import Purpose
from hatebm.ops.scalars import checked_chain_ids, checked_draw, checked_flag, checked_whole
from hatebm.sampling.state import State, checked_like, checked_state

_lock, _running = threading.Lock(), weakref.WeakSet()
COMPILE = {"auto": False, "off": False, False: False, "max": True, True: True}


class Chain:
    r"""n Langevin chains: x <- clamp(x - step_size * clip(grad E / T + prior_precision * x) + noise_std * eps).

    Chain c at step t draws its noise from (seed, c, t) alone, so a chain is the same chain in any batch and after
    any restart.

    Args:
        energy: callable or module, (n, \*sample) to (n,) or a scalar, low = likely; called with every block of a
            tuple state. None with ``grad_fn``.
        x: the initial state, float32 (float64 runs on the reference), (n, \*sample), or a tuple or list of such blocks.
        dynamics: the law; or give its fields as keywords, see :class:`hatebm.Dynamics`.
        seed: 64-bit seed of the noise; None draws one from torch's generator.
        chain_ids: (n,) ids of the chains in [0, 2^40); default 0..n-1.
        first_step: absolute index of the first step: schedules and noise go by it.
        energy_kwargs: keyword arguments of the energy, a dict or a callable of the step.
        grad_fn: the gradient itself (minus the score) in place of autograd: grad_fn(\*state, \*\*kwargs).
        mode: "eval", "train" or "keep": in which mode the modules run that the energy reaches, see
            :mod:`hatebm.energies.closure`; put back afterwards.
        noise: callable of the step that returns the standard normals, a tuple or a list for several blocks.
        nan: "raise" :class:`hatebm.ChainDiverged` at the end of a run, or "ignore".
        correct: None, or "mala": a Metropolis test after each step makes exp(-E / T - prior_precision |x|^2 / 2) exact
            at any step size, see :class:`hatebm.dynamics.transitions.Adjusted`; a proposal outside the clamp is
            refused.
        leapfrog_steps: Hamiltonian Monte Carlo: each step is a corrected trajectory of so many leapfrog steps of length
            noise_std, see :class:`hatebm.dynamics.transitions.Hamiltonian`.
        mask: where the state may move: bool, broadcastable to x, one per block of a tuple state (None: everywhere).
            What it leaves out keeps its bits.
        backend: one of ``hatebm.backends()``; None takes the fastest that can run.
        compile: "auto" does what needs no compile time (an energy of :mod:`hatebm.energies` takes all steps of a chain
            in one kernel, to the same bits, an MLP to rounding; a network with large convolutions is prepared, to
            rounding, see :mod:`hatebm.engine` and :meth:`report`), "off" (False) is the loop's own autograd and
            nothing else, "max" (True) runs the energy through torch.compile.
        precision: of the energy's convolutions and products: "float32", or "bfloat16" or, on CUDA, "tf32", which are
            faster and less exact; the state and its update stay float32, :meth:`report` tells the gradient's error. A
            corrected chain takes only gradients in it, its energies in float32, and so stays exact.

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
        correct: str | None = None,
        leapfrog_steps: int | None = None,
        mask: Tensor | tuple[Tensor | None, ...] | None = None,
        backend: str | None = None,
        compile: str | bool = "auto",
        precision: str = "float32",
        **law: Any,
    ) -> None:
        name = "langevin"
        require(dynamics is None or not law, name, "dynamics", f"given alone, without {sorted(law)}", dynamics)
        require(dynamics is None or isinstance(dynamics, Dynamics), name, "dynamics", "a Dynamics", dynamics, TypeError)
        require(energy is not None or grad_fn is not None, name, "energy", "a callable, or grad_fn one", energy)
        for label, function in (("energy", energy), ("grad_fn", grad_fn), ("noise", noise)):
            require(function is None or callable(function), name, label, "callable", function, TypeError)
        given = energy_kwargs is None or isinstance(energy_kwargs, dict) or callable(energy_kwargs)
        require(given, name, "energy_kwargs", "a dict, or a callable of the step", energy_kwargs, TypeError)
        check_backend(name, backend)
        checked_choice(name, "mode", mode, MODES)
        checked_choice(name, "nan", nan, ("raise", "ignore"))
        known = isinstance(compile, str | bool) and compile in COMPILE
        require(known, name, "compile", "'auto', 'off' or 'max'", compile)
        self.dynamics = Dynamics(**law) if dynamics is None else dynamics
        self._single = isinstance(x, Tensor)
        self._state = checked_state(name, "x", x)
        self._mask = mask
        masks = checked_mask(name, mask, self._state)
        energy, grad_fn = bare(energy), bare(grad_fn)
        self._reaching = [given for given in (energy, grad_fn, energy_kwargs) if given is not None]
        energy = through_compile(energy) if COMPILE[compile] and energy is not None else energy
        self._potential = Potential(energy, grad_fn, energy_kwargs, masks)
        laws = Laws(self.dynamics, [part.dtype for part in self._state])
        self._blocks = Blocks(laws, Region(laws, masks), Noise(noise), backend)
        self._form = checked_form(name, correct, leapfrog_steps, laws.each, energy)
        self._mode, self._nan, self._explored = mode, nan, False
        self._auto = compile == "auto"
        device = self._state[0].device
        self._engine = Engine(compile, precision, device)
        if seed is None:
            where = device if is_traced(self._state[0]) else "cpu"
            drawn = torch.randint(1 << 62, (1,), dtype=torch.int64, device=where)
            seed = drawn if is_traced(drawn) else int(drawn)
        self._blocks.noise.chain_ids = checked_chain_ids(name, chain_ids, len(self._state[0]), device)
        self._blocks.noise.seed, step = checked_draw(name, seed, first_step, 0, 0, device)
        self.step = int(step) if isinstance(step, Tensor) else step
        self._velocity = self._fresh_velocity()

    @property
    def seed(self) -> int:
        """The seed of the noise."""
        return self._blocks.noise.seed

    @property
    def state(self) -> State:
        """A copy of the state."""
        return self._shaped([x.detach().clone() for x in self._state])

    def run(
        self,
        n_steps: int,
        *,
        callback: Callable[[int, State], None] | None = None,
        every: int = 1,
        return_info: bool = False,
        grad_steps: int = 0,
    ) -> State | tuple[State, dict[str, Tensor]]:
        """Advance by ``n_steps`` and return the new state, a tensor of the caller's own.

        Args:
            n_steps: number of steps, >= 0.
            callback: called as callback(t, state) after each step t that ``every`` divides, with a copy of the state.
            every: of how many steps one is kept for ``callback`` and info.
            return_info: also return a dict of tensors over the kept steps t: "step" (kept,), and (kept, n) "energy"
                where step t took its gradient, "grad_norm" of grad E / T + prior_precision * x there, and
                "displacement", the distance moved; L2 norms over all blocks; and, of a corrected chain, "accept" and
                "nan_refused", the shares of its proposals that were accepted, and that were refused for a NaN in their
                energy or gradient (0 or 1, with sequential blocks between).
            grad_steps: the last so many steps keep the graph: of the energy's parameters, and of x, when these are all
                steps.

        Raises:
            ChainDiverged: a NaN or Inf, with its step and chains; the chain is left as it was before the run. In the
                proposal of a corrected chain a NaN is only refused, like an energy of +Inf, and warned of once.
            ValueError: a schedule that is too short, an argument out of range, or a negated expert that leaves no
                density, see :func:`hatebm.negate`.
        """
        n_steps = checked_whole("langevin", "n_steps", n_steps, "an integer >= 0", 0)
        every = checked_whole("langevin", "every", every, "an integer > 0", 1)
        return_info = checked_flag("langevin", "return_info", return_info)
        calls = callback is None or callable(callback)
        require(calls, "langevin", "callback", "a callable of the step and the state", callback, TypeError)
        end = self.step + n_steps
        require(end <= STEPS, "langevin", "n_steps", "small enough to stay below step 2^40", n_steps)
        for law in self._blocks.laws.each:
            law.check_length(end)
        grad_steps = self._checked_grad_steps(grad_steps, n_steps)
        kept: list[dict[str, Any]] = []
        modules = modules_of(*self._reaching)
        with self._alone("run"), in_mode(modules, self._mode), self._engine.switches():
            whole = grad_steps == n_steps > 0
            state = [x.clone() if whole else x.detach().clone() for x in self._state]
            velocity = list(self._velocity)
            watch = Watch(len(state[0]), state[0].device, self._nan == "raise" and n_steps > 0, self._form.corrected)
            transition = transition_of(self._form, self._blocks, self._potential, watch, velocity)
            self._blocks.region.held = self._state
            settle(modules, self._potential, self.step, state)
            self._check_bounded(modules)
            self._engine.begin(self._potential, modules, self.step, state)
            alone = self._auto and not grad_steps and not is_traced(state[0])
            parts = (self._form, self._blocks, self._potential, state, watch)
            kernel = WholeRuns(*parts) if alone else None
            graphs = self._engine.graphs(*parts) if alone else None
            keeps = callback is not None or return_info
            t = self.step
            while t < end:
                stretch = min(end - t, -t % every if keeps else end)
                if taken := (kernel and kernel(t, stretch)) or (graphs and graphs(t, stretch)):
                    t += taken
                    continue
                self._potential.differentiable = t >= end - grad_steps
                gather = return_info and t % every == 0
                before = [x.detach().clone() for x in state] if gather else []
                facts = transition(t, state, gather)
                if gather:
                    at = torch.tensor(t, dtype=torch.int64, device="cpu")
                    kept.append({"step": at, **facts, "displacement": _distance(before, state)})
                if callback is not None and t % every == 0:
                    callback(t, self._shaped([x.detach().clone() for x in state]))
                t += 1
            watch.check(end - 1, state, self._blocks.noise.chain_ids)
            self._engine.end(n_steps, kernel.taken if kernel else 0, kernel.refusal if kernel else "")
            result = self._shaped([self._blocks.region.boxed(k, x) for k, x in enumerate(state)])
            self._state, self._velocity, self.step = [x.detach().clone() for x in state], velocity, end
            self._blocks.region.held = self._state
        return (result, self._gathered(kept)) if return_info else result

    def report(self) -> str:
        """A few lines: how the energy was prepared for the last run, what was left alone and why, steps a second."""
        return self._engine.report()

    def state_dict(self) -> dict[str, Any]:
        """State, step, seed, chain ids, and velocity where there is friction; loads with ``weights_only=True``."""
        ids = self._blocks.noise.chain_ids
        ids = torch.arange(len(self._state[0]), dtype=torch.int64, device="cpu") if ids is None else ids.clone()
        saved = {"state": self.state, "step": self.step, "seed": self.seed, "chain_ids": ids}
        return saved | ({"velocity": tuple(v.clone() for v in self._velocity)} if self._velocity else {})

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned.

        Raises:
            TypeError, ValueError: naming what does not fit this chain, which is left as it was.
        """
        name = "load_state_dict"
        wanted = sorted(self.state_dict())
        require(isinstance(saved, dict), name, "saved", f"a dict of {wanted}", saved, TypeError)
        require(set(saved) == set(wanted), name, "saved", f"a dict of {wanted}", list(saved))
        state = checked_like(name, "state", saved["state"], "the chain's", self._state)
        velocity = checked_like(name, "velocity", saved["velocity"], "the state's", state) if self._velocity else []
        same = all(v.shape == x.shape for v, x in zip(velocity, state, strict=False))
        require(same, name, "velocity", "blocks like the state's", [tuple(v.shape) for v in velocity])
        require(saved["chain_ids"] is not None, name, "chain_ids", "integers, one id a chain", None, TypeError)
        device = state[0].device
        ids = checked_chain_ids(name, saved["chain_ids"], len(state[0]), device)
        seed, step = checked_draw(name, saved["seed"], saved["step"], 0, 0, device)
        masks = checked_mask(name, self._mask, state)
        default = torch.equal(ids.cpu(), torch.arange(len(state[0]), dtype=torch.int64, device="cpu"))
        with self._alone(name):
            self._state, self._velocity, self.step = state, velocity, int(step)
            self._blocks.noise.seed, self._blocks.noise.chain_ids = seed, None if default else ids
            self._blocks.region.masks = self._potential.masks = masks

    def _fresh_velocity(self) -> list[Tensor]:
        blocks, moving = self._blocks, enumerate(self._state) if self._form.friction else ()
        return [blocks.refresh(self.step, k, torch.zeros_like(x), 1.0, None, Purpose.VELOCITY) for k, x in moving]

    @contextmanager
    def _alone(self, method: str) -> Iterator[None]:
        """A chain goes one step after another: no second thread, nor its own callback, may move it meanwhile."""
        if torch.compiler.is_compiling():
            yield
            return
        with _lock:
            if self in _running:
                raise RuntimeError(f"{method}: the chain runs already, in another thread or below its own callback")
            _running.add(self)
        self._potential.kept = {}
        try:
            yield
        finally:
            self._potential.kept = None
            _running.discard(self)

    def _check_bounded(self, modules: Sequence[nn.Module]) -> None:
        """Before the first run: a negated expert may leave no density for a chain without a box."""
        if self._explored or self._nan == "ignore" or not negations_in(modules) or is_traced(self._state[0]):
            return
        now, _ = self._blocks.laws.at(self.step)
        priors = [
            law.prior_precision * block.temperature for law, block in zip(self._blocks.laws.each, now, strict=True)
        ]
        free = self._blocks.region.unwalled(self._state)
        if any(mask.any() for mask in free):
            check_bounded(self._reaching[0], self._state, self._potential.kwargs(self.step), priors, free)
        self._explored = True

    def _checked_grad_steps(self, grad_steps: int, n_steps: int) -> int:
        name, text = "grad_steps", f"an integer from 0 to n_steps = {n_steps}"
        grad_steps = checked_whole("langevin", name, grad_steps, text, 0, n_steps + 1)
        plain = not (self._form.corrected or self._form.friction)
        require(plain or not grad_steps, "langevin", name, "0 with correct, leapfrog_steps or friction", grad_steps)
        require(torch.is_grad_enabled() or not grad_steps, "langevin", name, "0 where autograd is off", grad_steps)
        return grad_steps

    def _shaped(self, state: list[Tensor]) -> State:
        return state[0] if self._single else tuple(state)

    def _gathered(self, kept: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        told = ["accept", "nan_refused"] if self._form.corrected else []
        names = kept[0] if kept else ("step", "energy", "grad_norm", "displacement", *told)
        empty = {"step": torch.empty(0, dtype=torch.int64, device="cpu")}
        rows = self._state[0].new_empty(0, len(self._state[0]))
        return {name: torch.stack([row[name] for row in kept]) if kept else empty.get(name, rows) for name in names}


def _distance(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    moved = [(x.detach() - old).reshape(len(x), x[:1].numel()) for x, old in zip(after, before, strict=True)]
    return torch.cat(moved, 1).norm(dim=1)
