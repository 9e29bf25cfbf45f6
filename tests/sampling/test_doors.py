"""Every public function names what it cannot take: one line that says what was wanted, and never prints an array."""

import math
import re

import numpy
import pytest
import torch

import hatebm


class Long:
    def __repr__(self):
        return "long " * 10_000


class Broken:
    def __repr__(self):
        raise RuntimeError("no name")


class Lines:
    def __repr__(self):
        return "one\ntwo"


NOWHERE = {  # what fits no argument of any function
    "object": object(),
    "a long name": Long(),
    "no name": Broken(),
    "two lines": Lines(),
    "nan": math.nan,
    "complex": 1j,
    "bytes": b"x",
    "word": "x" * 9000,
    "set": {1, 2},
    "list of None": [None] * 3,
    "words": ("a", "b"),
    "numpy complex": numpy.complex64(1j),
    "numpy word": numpy.array("x"),
    "numpy nan": numpy.float32("nan"),
    "numpy 5d": numpy.ones((9, 9, 9, 9, 9)),
    "5d": torch.ones(2, 1, 1, 1, 2),
    "complex tensor": torch.ones(4, 3, dtype=torch.complex64),
    "sparse": torch.eye(4).to_sparse(),
    "meta": torch.ones(9, device="meta"),
    "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    "learned": torch.tensor(0.1, requires_grad=True),
    "learned schedule": torch.full((9,), 0.1, requires_grad=True),
    "nested lists": [[1.0], [2.0, 3.0]],
    "number of its own": [[[[0.5]]]],
    "beyond floats": [10**400] * 9,
}


def energy(x):
    return x.square().flatten(1).sum(1)


def x():
    return torch.zeros(4, 3)


def buffer():
    made = hatebm.ReplayBuffer(4, (3,), seed=0)
    made.push(torch.full((4, 3), 0.5), 0)
    return made


def chain(**law):
    return hatebm.Chain(energy, x(), eps=0.1, seed=0, **law)


def loaded(make):
    return lambda **saved: make().load_state_dict(saved)


LAW = dict.fromkeys(("clip", "clamp", "reflect", "friction"))
LAW |= {"step_size": 0.1, "noise_std": 0.1, "temperature": 1.0, "prior_precision": 0.0, "noise_at": "after"}
LAW |= {"add": "fma", "clip_on": "grad", "clamp_at": "step", "blocks": "joint"}
OF_CHAINS = {"seed": 0, "chain_ids": None, "first_step": 0, "energy_kwargs": None, "mode": "eval", "nan": "raise"}
OF_CHAINS |= {"mask": None, "backend": None, "compile": "off", "precision": "float32"}
OF_RUNS = {"n_steps": 1, "callback": None, "every": 1, "return_info": False}
OF_STEPS = {"step_size": 0.1, "noise_std": 0.1, "temperature": 1.0, "prior_precision": 0.0, "clip": None}
OF_STEPS |= {"clip_on": "grad", "backend": None}
PLACE = {"seed": 0, "step": 0, "block": 0, "purpose": 0, "chain_ids": None, "backend": None}
TENSORS = dict.fromkeys(("noise", "gz", "image", "grad_norm", "displacement", "diverged"))
DRAWS = torch.randn(8, 4, 3)
TOLD = chain().run(8, return_info=True)[1]
CALLS = {
    "langevin": (hatebm.langevin, {"energy": energy, "x": x(), "grad_steps": 0} | LAW | OF_CHAINS | OF_RUNS),
    "Dynamics": (hatebm.Dynamics, LAW),
    "Chain": (hatebm.Chain, {"energy": energy, "x": x(), "dynamics": hatebm.Dynamics(eps=0.1)} | OF_CHAINS),
    "corrected": (chain, {"correct": "mala", "leapfrog_steps": None}),
    "run": (lambda **run: chain().run(**run), OF_RUNS | {"grad_steps": 0}),
    "hmc": (hatebm.hmc, {"energy": energy, "x": x(), "eps": 0.1, "leapfrog_steps": 1} | OF_CHAINS | OF_RUNS),
    "tempering": (
        hatebm.tempering,
        {"energy": energy, "x": x(), "temperatures": [1, 2], "swap_every": 1, "eps": 0.1} | OF_CHAINS | OF_RUNS,
    ),
    "ais": (
        hatebm.ais,
        {"energy": energy, "x": (4, 3), "bridges": 2, "eps": 0.1, "leapfrog_steps": 1, "trajectories": 1}
        | {"temperature": 1.0, "std": 1.0, "box": None, "pilot": 0, "seed": 0, "chain_ids": None, "device": None}
        | {"energy_kwargs": None, "mode": "eval", "backend": None, "compile": "off", "precision": "float32"},
    ),
    "per_chain": (hatebm.per_chain, {"numbers": [0.1, 0.2]}),
    "normal": (hatebm.normal, {"shape": (4, 3), "device": None} | PLACE),
    "philox": (
        hatebm.philox,
        {"counter": torch.zeros(4, 4, dtype=torch.int64), "key": torch.zeros(2, dtype=torch.int64), "backend": None},
    ),
    "langevin_step_": (
        hatebm.ops.langevin_step_,
        {"x": x(), "grad": x(), "add": "fma", "clamp": None} | OF_STEPS | PLACE | TENSORS,
    ),
    "langevin_ratio": (
        hatebm.ops.langevin_ratio,
        dict.fromkeys(("x", "grad", "proposal", "proposal_grad"), x()) | OF_STEPS,
    ),
    "metropolis": (hatebm.ops.metropolis, {"log_ratio": torch.zeros(4, dtype=torch.float64)} | PLACE),
    "residual_add": (hatebm.ops.residual_add, {"gz": x(), "y": x(), "backend": None}),
    "ReplayBuffer": (
        hatebm.ReplayBuffer,
        {"capacity": 4, "shape": (3,), "storage": torch.uint8, "box": (0, 1), "replacement": "ring", "seed": 0}
        | {"device": None},
    ),
    "draw": (lambda **call: buffer().draw(**call), {"n": 2, "step": 0, "reinit": 0.5, "labels": None, "init": None}),
    "push": (lambda **call: buffer().push(**call), {"x": x(), "step": 0, "labels": None, "slots": None}),
    "load_state_dict of a chain": (loaded(chain), chain().state_dict()),
    "load_state_dict with a velocity": (loaded(lambda: chain(friction=1.0)), chain(friction=1.0).state_dict()),
    "load_state_dict of a buffer": (loaded(buffer), buffer().state_dict()),
    "a saved chain": (lambda saved: chain().load_state_dict(saved), {"saved": chain().state_dict()}),
    "a saved buffer": (lambda saved: buffer().load_state_dict(saved), {"saved": buffer().state_dict()}),
    "negate": (hatebm.negate, {"energy": energy, "by": energy, "weight": 0.1}),
    "product": (lambda a, b: hatebm.product(a, b), {"a": energy, "b": energy}),
    "HatEnergy": (hatebm.HatEnergy, {"hat": energy, "generator": energy}),
    "Gaussian": (hatebm.energies.Gaussian, {"mean": [0.0, 0.0], "precision": [1.0, 1.0]}),
    "Mixture": (hatebm.energies.Mixture, {"means": [[0.0], [1.0]], "std": 1.0, "weights": [1.0, 1.0]}),
    "DoubleWell": (hatebm.energies.DoubleWell, {"height": 1.0, "separation": 1.0}),
    "Funnel": (hatebm.energies.Funnel, {"scale": 1.0}),
    "MLP": (hatebm.energies.MLP, {"widths": (3, 4), "activation": "silu"}),
    "summary": (hatebm.diagnostics.summary, {"draws": DRAWS, "info": None}),
    "summary of info": (
        lambda **told: hatebm.diagnostics.summary(DRAWS, told),
        {name: TOLD[name] for name in ("step", "energy", "displacement")},
    ),
    "plot_chain": (
        hatebm.diagnostics.plot_chain,
        {"draws": DRAWS[:4, :2, :1], "info": None, "path": None, "quantities": [0]},
    ),
    "ess": (hatebm.diagnostics.ess, {"draws": DRAWS, "kind": "bulk"}),
    "split_rhat": (hatebm.diagnostics.split_rhat, {"draws": DRAWS}),
    "autocorrelation": (hatebm.diagnostics.autocorrelation, {"draws": DRAWS}),
}
OF_ANY_SHAPE = {"x": ("5d", "meta", "learned schedule"), "draws": ("5d",), "path": ("word",), "means": ("5d",)}
OF_ANY_SHAPE |= dict.fromkeys(("step_size", "noise_std", "eps", "temperature"), ("learned", "learned schedule"))
OF_ANY_SHAPE |= {"prior_precision": ("learned",), "numbers": ("meta", "learned schedule", "beyond floats")}
REFUSAL = re.compile(r"[A-Za-z_]+: (.+) must be .+, got .+")


@pytest.mark.parametrize("call", CALLS)
def test_what_fits_nowhere_is_named(call):
    function, arguments = CALLS[call]
    function(**own(arguments))
    for name in arguments:
        for kind, value in NOWHERE.items():
            if kind in OF_ANY_SHAPE.get(name, ()) and call not in ("langevin_step_", "langevin_ratio", "push"):
                continue
            what = f"{call}: {name} = {kind}"
            try:
                function(**own(arguments) | {name: value})
            except (TypeError, ValueError) as error:
                said = str(error)
                assert REFUSAL.fullmatch(said), f"{what}: {said}"
                assert len(said) < 500, f"{what}: {said[:500]}"
                assert "[[" not in said or kind in ("nested lists", "number of its own"), f"{what}: {said}"
            else:
                raise AssertionError(f"{what} went through")


def own(arguments):
    return {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in arguments.items()}
