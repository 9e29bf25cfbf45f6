"""Imports point downward only, and the package drags nothing heavy in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEVELS = [
    {"checks", "errors", "files", "scalars", "terminal"},
    {"native", "reference", "kernels"},
    {"backend", "library", "noise", "ops"},
    {
        "adjoint",
        "blocks",
        "composition",
        "transitions",
        "dynamics",
        "closure",
        "held",
        "modes",
        "gradient",
        "hat_energy",
        "health",
        "info",
        "lazy",
        "perceptron",
        "rays",
        "state",
        "whole",
        "energies",
    },
    {
        "engine",
        "chain",
        "langevin",
        "hmc",
        "tempering",
        "ais",
        "nets",
        "data",
        "evaluation",
        "pictures",
        "replay",
        "cells",
    },
    {"convergence", "chain_picture", "diagnostics", "config", "learner", "plots"},
    {"systems"},
    {
        "catalogue",
        "checkpoints",
        "fingerprint",
        "formats",
        "metrics",
        "progress",
        "restoring",
        "results",
        "runs",
        "presets",
        "settings",
        "stages",
        "starts",
        "symptoms",
        "tables",
        "training",
    },
    {"bench"},
    {"cli", "commands", "__main__", "__init__"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
FILES = [*sorted((ROOT / "hatebm").rglob("*.py")), *sorted((ROOT / "kernels").rglob("*.py"))]


def room_of(path):
    """The room a file belongs to: its folder below hatebm/, or its own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "kernels" else parts[1]


def imports_of(path):
    """Every module of hatebm that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (
                f"{node.module}.{alias.name}" if node.module == "hatebm" else node.module for alias in node.names
            )


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_imports_point_downward(path):
    here = room_of(path)
    assert here in LEVEL, f"{here} has no level: give it one in LEVELS"
    for name in imports_of(path):
        assert name.split(".")[0] != "kernels", f"{path}: `import kernels` would make a second copy"
        if not name.startswith("hatebm."):
            continue
        there = name.split(".")[1]
        if there in LEVEL and there != here and here != "__init__":
            assert LEVEL[there] <= LEVEL[here], f"{path} (level {LEVEL[here]}) imports {name} (level {LEVEL[there]})"


def test_systems_do_not_import_one_another():
    """A system is a file or a folder below hatebm/systems."""
    for path in (path for path in FILES if room_of(path) == "systems"):
        here = path.relative_to(ROOT).with_suffix("").parts[:3]
        for name in imports_of(path):
            assert not name.startswith("hatebm.systems.") or tuple(name.split(".")[:3]) == here, f"{path}: {name}"


def test_importing_hatebm_needs_torch_alone():
    heavy = "{'triton', 'torchvision', 'sklearn', 'PIL', 'matplotlib', 'rich', 'safetensors', 'scipy'}"
    code = f"import sys, torch; before = set(sys.modules); import hatebm; print(({heavy} - before) & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"
