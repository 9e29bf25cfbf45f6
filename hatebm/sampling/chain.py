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
from hatebm.energies.modes import bare, in_mode
from hatebm.engine import Engine, through_compile
from hatebm.ops.checks import checked_mask, in_the_name_of
from hatebm.ops.law_numbers import least
from hatebm.ops.library import is_traced
from hatebm.ops.noise import Purpose
from hatebm.ops.scalars import checked_chain_ids, checked_draw, checked_flag, checked_whole
from hatebm.sampling.door import (
    COMPILE,
    NAME,
    check_callback,
    check_choices,
    check_functions,
    checked_end,
    checked_grad_steps,
    checked_keep,
    checked_saved,
    drawn_seed,
)
from hatebm.sampling.graphs import Graphs
from hatebm.sampling.info import Info
from hatebm.sampling.state import State, checked_state, copied

_lock, _running = threading.Lock(), weakref.WeakSet()


class Chain:
    r"""n Langevin chains: x <- clamp(x - step_size * clip(grad E / T + prior_precision * x) + noise_std * eps).

    Chain c at step t draws its noise from (seed, c, t) alone, so a chain is the same chain in any batch and after
    any restart.

    Args:
        energy: callable or module, (n, \*sample) to (n,) or a scalar, low = likely, or to a dict of (n,) parts, whose
            sum in its order is the energy; called with every block of a tuple state. None with ``grad_fn``.
        x: the initial state, float32 (float64 runs on the reference), (n, \*sample), or a tuple or list of such blocks.
        dynamics: the law; or give its fields as keywords, see :class:`hatebm.Dynamics`.
        seed: 64-bit seed of the noise; None draws one from torch's generator.
        chain_ids: (n,) ids of the chains in [0, 2^40); default 0..n-1. They name a chain's noise; its own numbers of
            the law, :func:`hatebm.per_chain`, go by position.
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
        precision: of the energy's convolutions and products: None takes torch as it is set, autocast too; "float32" is
            IEEE on every device, whatever torch is set to; "bfloat16" or, on CUDA, "tf32" are faster and less exact:
            :meth:`report` tells the gradient's error. The state, its update and all kernels of whole runs are float32
            always, and so are the energies by which a corrected chain decides: it stays exact.

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
        precision: str | None = None,
        **law: Any,
    ) -> None:
        check_functions(energy, grad_fn, noise, energy_kwargs, dynamics, law)
        check_choices(backend, mode, nan, compile)
        self.dynamics = Dynamics(**law) if dynamics is None else dynamics
        self._single = isinstance(x, Tensor)
        self._state = checked_state(NAME, "x", x)
        self._mask = mask
        masks = checked_mask(NAME, mask, self._state)
        energy, grad_fn = bare(energy), bare(grad_fn)
        self._reaching = [given for given in (energy, grad_fn, energy_kwargs) if given is not None]
        energy = through_compile(energy) if COMPILE[compile] and energy is not None else energy
        self._potential = Potential(energy, grad_fn, energy_kwargs, masks)
        laws = Laws(self.dynamics, self._state)
        self._form = checked_form(NAME, correct, leapfrog_steps, laws.each, energy)
        self._mode, self._nan, self._explored = mode, nan, False
        n, device = len(self._state[0]), self._state[0].device
        self._engine = Engine(compile, precision, device, self._form.corrected)
        seed = drawn_seed(self._state[0]) if seed is None else seed
        ids = checked_chain_ids(NAME, chain_ids, n, device)
        seed, step = checked_draw(NAME, seed, first_step, 0, 0, device)
        self.step = int(step) if isinstance(step, Tensor) else step
        self._blocks = Blocks(laws, Region(laws, masks), Noise(noise, seed, ids), backend)
        self._velocity = self._fresh_velocity()

    @property
    def seed(self) -> int:
        """The seed of the noise."""
        return self._blocks.noise.seed

    @property
    def state(self) -> State:
        """A copy of the state."""
        return self._shaped(copied(self._state))

    def run(
        self,
        n_steps: int,
        *,
        callback: Callable[[int, State], None] | None = None,
        every: int = 1,
        return_info: bool = False,
        grad_steps: int = 0,
        keep: str = "last",
    ) -> State | list[State] | tuple[State | list[State], dict[str, Tensor]]:
        """Advance by ``n_steps`` and return the new state, a tensor of the caller's own.

        Args:
            n_steps: number of steps, >= 0.
            callback: called as callback(t, state) after each step t that ``every`` divides, before the next one, with a
                copy of the state.
            every: of how many steps one is kept for ``callback`` and info.
            return_info: also return a dict of what is told of the kept steps t, tensors of a row each: "step" (kept,);
                "energy" (kept, n) where step t took its gradient, before it is divided by T, (kept, 1) of a scalar
                energy; "energy_parts", name to (kept, n), of an energy in a dict; "grad_norm" (kept, n) of
                grad E / T + prior_precision * x there; "grad_norm_energy" (kept, n, blocks) of grad E / T alone, in
                each block; and "displacement" (kept, n), the distance moved. Norms are L2, in the units of x and of
                1 / x, before any clip, over all blocks where nothing else is said; 0 for what a mask holds and for a
                chain or a block that rests. Of a corrected chain, energies and norms are those before the step, and
                there are "accept" and "nan_refused" (kept, n), the shares of its proposals that were accepted, and
                that were refused for a NaN in their energy or gradient (0 or 1, with sequential blocks between).
            grad_steps: the last so many steps keep the graph: of the energy's parameters, of the law's numbers in
                tensors that ask for a gradient, and of x, when these are all steps. That holds what n gradients of the
                energy need in memory.
            keep: "last" returns the state after the last step, "steps" the list of the states after each: those of the
                last ``grad_steps`` with the graph that leads through them, each one before with that of its own step
                alone, which began at a detached state (none where autograd is off). A list holds the memory of its
                steps' graphs for as long as it lives.

        Raises:
            ChainDiverged: a NaN or Inf, with its step and chains; the chain is left as it was before the run. In the
                proposal of a corrected chain a NaN is only refused, like an energy of +Inf, and warned of once.
            ValueError: a schedule that is too short, an argument out of range, or a negated expert that leaves no
                density, see :func:`hatebm.negate`.
        """
        n_steps = checked_whole(NAME, "n_steps", n_steps, "an integer >= 0", 0)
        every = checked_whole(NAME, "every", every, "an integer > 0", 1)
        return_info = checked_flag(NAME, "return_info", return_info)
        check_callback(callback)
        end = checked_end(self.step, n_steps, self._blocks.laws.each, len(self._state[0]))
        grad_steps = checked_grad_steps(grad_steps, n_steps, self._form)
        graphs = Graphs(end - grad_steps, checked_keep(keep, self._form), self._returned)
        modules = modules_of(*self._reaching)
        with self._alone("run"), in_mode(modules, self._mode), self._engine.switches():
            state = [x.clone() for x in self._state] if grad_steps == n_steps > 0 else copied(self._state)
            velocity = list(self._velocity)
            self._blocks.laws.begin(state, self.step, end)
            watch = Watch(len(state[0]), state[0].device, self._nan == "raise" and n_steps > 0, self._form.corrected)
            transition = transition_of(self._form, self._blocks, self._potential, watch, velocity)
            info = Info(transition, every, callback, return_info, self._shaped)
            self._blocks.region.held = self._state if grad_steps == n_steps > 0 else [x.detach() for x in self._state]
            settle(modules, self._potential, self.step, state)
            self._check_bounded(modules)
            self._engine.begin(self._potential, modules, self.step, state, callback is not None)
            self._potential.parts = None
            parts = (self._form, self._blocks, self._potential, state, watch, transition, info.gathering)
            shortcuts = self._engine.shortcuts(*parts, stepwise=grad_steps > 0 or graphs.keeps)
            t = self.step
            while t < end:
                taken = shortcuts(t, info.stretch(t, end))
                if not taken:
                    self._potential.differentiable = graphs.learning(t)
                    info.step(t, state)
                    state = graphs.after(t, state)
                t += taken or 1
                if info.call(t - 1, state):
                    self._engine.go_on(self._potential, t, state, shortcuts)
            watch.check(end - 1, state, self._blocks.noise.chain_ids)
            self._engine.end(n_steps, shortcuts)
            result = graphs.outputs if graphs.keeps else self._returned(state)
            self._state, self._velocity, self.step = copied(state), velocity, end
            self._blocks.region.held = self._state
        return (result, info.gathered(self._state, self._form.corrected)) if return_info else result

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
        found = checked_saved(saved, list(self.state_dict()), self._state)
        with in_the_name_of("load_state_dict", "Dynamics"):
            self._blocks.laws.check(found.state)
        masks = checked_mask("load_state_dict", self._mask, found.state)
        with self._alone("load_state_dict"):
            self._state, self._velocity, self.step = found.state, found.velocity, found.step
            self._blocks.noise.seed, self._blocks.noise.chain_ids = found.seed, found.chain_ids
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
        laws = self._blocks.laws
        now, _ = laws.at(self.step)
        priors = [least(block.prior_precision * block.temperature) for block in now]
        free = self._blocks.region.unwalled(self._state)
        if any(mask.any() for mask in free):
            check_bounded(self._reaching[0], self._state, self._potential.kwargs(self.step), priors, free)
        self._explored = True

    def _returned(self, state: list[Tensor]) -> State:
        return self._shaped([self._blocks.region.boxed(k, x) for k, x in enumerate(state)])

    def _shaped(self, state: list[Tensor]) -> State:
        return state[0] if self._single else tuple(state)
