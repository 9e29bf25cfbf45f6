"""The door of a chain: what it, its runs and a saved state of it must be."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hatebm.dynamics.law import Dynamics
from hatebm.dynamics.transitions.form import Form
from hatebm.energies.modes import MODES
from hatebm.ops.backend import check_backend
from hatebm.ops.checks import STEPS, checked_choice, require
from hatebm.ops.library import is_traced
from hatebm.ops.scalars import checked_chain_ids, checked_draw, checked_whole
from hatebm.sampling.state import checked_like

NAME = "langevin"  # by which a chain's refusals go
COMPILE = {"auto": False, "off": False, False: False, "max": True, True: True}  # whether through torch.compile


def check_functions(
    energy: Any, grad_fn: Any, noise: Any, energy_kwargs: Any, dynamics: Any, law: dict[str, Any]
) -> None:
    """What a chain walks on and by which law, before any of it is called."""
    require(dynamics is None or not law, NAME, "dynamics", f"given alone, without {sorted(law)}", dynamics)
    require(dynamics is None or isinstance(dynamics, Dynamics), NAME, "dynamics", "a Dynamics", dynamics, TypeError)
    require(energy is not None or grad_fn is not None, NAME, "energy", "a callable, or grad_fn one", energy)
    for label, function in (("energy", energy), ("grad_fn", grad_fn), ("noise", noise)):
        require(function is None or callable(function), NAME, label, "callable", function, TypeError)
    given = energy_kwargs is None or isinstance(energy_kwargs, dict) or callable(energy_kwargs)
    require(given, NAME, "energy_kwargs", "a dict, or a callable of the step", energy_kwargs, TypeError)


def check_choices(backend: Any, mode: Any, nan: Any, compile: Any) -> None:
    """What a chain is given by a word."""
    check_backend(NAME, backend)
    checked_choice(NAME, "mode", mode, MODES)
    checked_choice(NAME, "nan", nan, ("raise", "ignore"))
    known = isinstance(compile, str | bool) and compile in COMPILE
    require(known, NAME, "compile", "'auto', 'off' or 'max'", compile)


def drawn_seed(x: Tensor) -> int | Tensor:
    """A seed from torch's generator; a tensor where torch.compile traces the caller."""
    drawn = torch.randint(1 << 62, (1,), dtype=torch.int64, device=x.device if is_traced(x) else "cpu")
    return drawn if is_traced(drawn) else int(drawn)


def checked_end(step: int, n_steps: int, laws: Sequence[Dynamics], n: int) -> int:
    """The step before which a run of ``n_steps`` ends: there are so many, and every schedule reaches it."""
    end = step + n_steps
    require(end <= STEPS, NAME, "n_steps", "small enough to stay below step 2^40", n_steps)
    for law in laws:
        law.check_length(end, n)
    return end


def checked_grad_steps(grad_steps: Any, n_steps: int, form: Form) -> int:
    """How many of the last steps of a run keep their graph."""
    name, text = "grad_steps", f"an integer from 0 to n_steps = {n_steps}"
    grad_steps = checked_whole(NAME, name, grad_steps, text, 0, n_steps + 1)
    plain = not (form.corrected or form.friction)
    require(plain or not grad_steps, NAME, name, "0 with correct, leapfrog_steps or friction", grad_steps)
    require(torch.is_grad_enabled() or not grad_steps, NAME, name, "0 where autograd is off", grad_steps)
    return grad_steps


def checked_keep(keep: Any, form: Form) -> bool:
    """Whether a run returns the state after each step."""
    checked_choice(NAME, "keep", keep, ("last", "steps"))
    plain = not (form.corrected or form.friction)
    require(plain or keep == "last", NAME, "keep", "'last' with correct, leapfrog_steps or friction", keep)
    return keep == "steps"


def check_callback(callback: Callable | None) -> None:
    """What a run calls."""
    calls = callback is None or callable(callback)
    require(calls, NAME, "callback", "a callable of the step and the state", callback, TypeError)


class Saved(NamedTuple):
    """What a chain goes on from."""

    state: list[Tensor]
    velocity: Sequence[Tensor]
    chain_ids: Tensor | None
    seed: int
    step: int


def checked_saved(saved: Any, wanted: Sequence[str], own: Sequence[Tensor]) -> Saved:
    """What ``state_dict`` returned of a chain with states like its own, but for their number."""
    name = "load_state_dict"
    require(isinstance(saved, dict), name, "saved", f"a dict of {sorted(wanted)}", saved, TypeError)
    require(set(saved) == set(wanted), name, "saved", f"a dict of {sorted(wanted)}", list(saved))
    state = checked_like(name, "state", saved["state"], "the chain's", own)
    velocity = checked_like(name, "velocity", saved["velocity"], "the state's", state) if "velocity" in saved else []
    same = all(v.shape == x.shape for v, x in zip(velocity, state, strict=False))
    require(same, name, "velocity", "blocks like the state's", [tuple(v.shape) for v in velocity])
    require(saved["chain_ids"] is not None, name, "chain_ids", "integers, one id a chain", None, TypeError)
    n, device = len(state[0]), state[0].device
    ids = checked_chain_ids(name, saved["chain_ids"], n, device)
    seed, step = checked_draw(name, saved["seed"], saved["step"], 0, 0, device)
    default = torch.equal(ids.cpu(), torch.arange(n, dtype=torch.int64, device="cpu"))
    return Saved(state, velocity, None if default else ids, seed, int(step))
