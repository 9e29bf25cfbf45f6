"""The summary of a run and its picture."""

import math

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from series import ar1, normals, shifted
from targets import quadratic

import hatebm
from hatebm.diagnostics import ess, plot_chain, split_rhat, summary


def ran(n=10, steps=300, every=1, x=None, **law):
    states = []
    x = normals(n, 3).float() if x is None else x
    law = {"eps": 0.9, "seed": 0} | law
    keep = {"callback": lambda t, x: states.append(x), "return_info": True, "every": every}
    _, info = hatebm.langevin(quadratic, x, steps, **law, **keep)
    return torch.stack(states), info


def test_a_summary_gathers_the_numbers():
    draws, info = ran(correct="mala")
    got = summary(draws, info)
    assert (got.steps, got.chains, got.elements, got.constant) == (300, 10, 3, 0)
    assert got.worst_rhat == float(split_rhat(draws).max())
    assert got.median_rhat == float(split_rhat(draws).median())
    assert got.worst_bulk_ess == float(ess(draws).min())
    assert got.median_tail_ess == float(ess(draws, "tail").median())
    assert got.acceptance == pytest.approx(float(info["accept"].mean()))
    assert got.displacement == pytest.approx(float(info["displacement"].mean()))
    change = (info["energy"][225:].mean(0) - info["energy"][150:225].mean(0)).double()
    assert got.energy_change == pytest.approx(float(change.mean()), abs=1e-6)
    assert got.energy_error == pytest.approx(float(change.std()) / math.sqrt(10), rel=1e-4)
    for word in ("300 steps, 10 chains, 3 elements", "R-hat", "bulk ESS", "tail ESS", "acceptance", "energy"):
        assert word in str(got)
    assert "acceptance" not in str(summary(draws))
    assert "energy" not in str(summary(draws, {}))
    for energies in (normals(300, 1).expand(300, 10), normals(300, 1)):
        alike = summary(draws, {"energy": energies})
        assert math.isnan(alike.energy_error)
        assert "energy" not in alike.advice


def test_constant_elements_are_counted_and_left_out_of_a_summary():
    draws, _ = ran()
    want, bordered = summary(draws), torch.cat([draws, torch.zeros(300, 10, 2)], 2)
    got = summary(bordered)
    assert (got.constant, got.elements) == (2, 5)
    assert (got.worst_rhat, got.median_bulk_ess) == (want.worst_rhat, want.median_bulk_ess)
    assert "2 of them constant" in str(got)


def test_advice_is_one_sentence_on_what_is_wrong():
    quiet = summary(normals(500, 8, 3))
    assert quiet.advice == ""
    assert len(str(quiet).splitlines()) == 4
    assert "do not agree" in summary(shifted(500, 8, 3)).advice
    assert "ESS below 100 a chain (800 in all)" in summary(normals(90, 8, 3)).advice
    assert "The energy still falls" in summary(*ran(x=torch.full((10, 3), 30.0), eps=0.1)).advice
    assert "proposals are accepted" in summary(*ran(eps=3.0, correct="mala")).advice
    assert "No element moved" in summary(torch.ones(50, 4, 2)).advice
    assert "at least 4 steps" in summary(normals(3, 4, 2)).advice
    assert "two chains" in summary(normals(500, 1, 2)).advice
    broken = normals(500, 4, 2)
    broken[3, 1, 0] = math.nan
    assert "without NaN" in summary(broken).advice


def test_settled_chains_seldom_hear_that_their_energy_moves():
    heard = [
        "energy" in summary(*ran(x=normals(16, 3, seed=seed).float(), steps=120, seed=seed)).advice
        for seed in range(20)
    ]
    assert sum(heard) == 0  # 4 standard errors of 16 chains: once in 900


def panels(figure):
    return [axes.get_ylabel() for axes in figure.axes]


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def test_a_picture_has_the_panels_that_there_are_data_for(tmp_path):
    draws, info = ran(correct="mala", every=3)
    figure = plot_chain(draws, info, tmp_path / "chain.png", quantities=[2, (0,)])
    rho = "autocorrelation"
    assert panels(figure) == ["x[2]", rho, "x[0]", rho, "energy", "accepted so far"]
    trace, correlation = figure.axes[:2]
    assert trace.get_xlabel() == "step"
    assert trace.lines[1].get_xdata().tolist() == info["step"].tolist()
    np.testing.assert_array_equal(trace.lines[1].get_ydata(), draws[:, 1, 2].double().numpy())
    assert f"ESS {float(ess(draws)[2]):.0f} bulk" in correlation.get_title()
    assert f"R-hat {float(split_rhat(draws)[2]):.3f}" in correlation.get_title()
    assert correlation.lines[0].get_xdata()[1] == 3
    accepted = figure.axes[-1].lines[0].get_ydata()
    assert accepted[-1] == pytest.approx(float(info["accept"][:, 0].mean()))
    with Image.open(tmp_path / "chain.png") as saved:
        assert saved.width == 1300
        assert np.asarray(saved.convert("L")).std() > 10

    del info["accept"]
    assert panels(plot_chain(draws, info))[-2:] == ["energy", "displacement (L2)"]
    del info["energy"]
    assert panels(plot_chain(draws, info))[-1] == "displacement (L2)"
    alone = plot_chain(draws)
    assert sorted(panels(alone)) == sorted(["x[0]", rho, "x[1]", rho, "x[2]", rho])
    assert alone.axes[0].get_xlabel() == "draw"


def test_a_picture_shows_the_worst_the_median_and_the_best_element():
    draws = normals(200, 4, 2, 3)
    draws[:, :, 1, 2] += 3 * torch.arange(4)
    draws[:, :, 0, 1] = 5.0
    rhat = split_rhat(draws).flatten()
    shown = panels(plot_chain(draws))[::2]
    best = int(rhat.nan_to_num(9).argmin())
    assert shown[0] == "x[1, 2]"
    assert shown[2] == f"x[{best // 3}, {best % 3}]"
    assert "x[0, 1]" not in shown
    asked = plot_chain(draws, quantities=[(1, 2), 4, (-2, 1), -1])
    assert panels(asked)[::2] == ["x[1, 2]", "x[1, 1]", "x[0, 1]", "x[1, 2]"]
    slow = torch.cat([normals(200, 1, 2), ar1(0.97, 200, 1, 1)], 2)
    assert panels(plot_chain(slow))[0] == "x[2]"


@pytest.mark.parametrize("case", ["one chain", "scalar", "short", "constant", "nan", "one step", "many chains"])
def test_pictures_of_odd_draws_are_drawn(case):
    draws = {
        "one chain": normals(50, 1, 2),
        "scalar": normals(50, 3),
        "short": normals(3, 3, 2),
        "constant": torch.ones(50, 3, 2),
        "nan": normals(50, 6, 2).fill_(math.nan),
        "one step": normals(1, 2, 2),
        "many chains": normals(50, 30, 2),
    }[case]
    n = draws.shape[1]
    figure = plot_chain(draws, {"step": torch.arange(len(draws)), "energy": torch.full((len(draws), n), math.nan)})
    assert pixels(figure).std() > 5
    assert panels(figure)[-1] == "energy"
    assert len(figure.axes[0].lines) == min(n, 4)
    assert len(figure.axes[0].collections) == (n > 4)
