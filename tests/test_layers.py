"""Imports point downward only, and the package drags nothing heavy in."""

import ast
import re
import subprocess
import sys

import pytest
from places import ROOT

WINGS = (  # from the ground up, each with its one question
    ("errors", "what is said to the person at the command line?"),
    ("terminal", "what may the terminal be told?"),
    ("ops", "what is one fused step, and who computes it? With its twins in Triton, kernels/"),
    ("nets", "which networks are published?"),
    ("energies", "what may a chain walk on?"),
    ("dynamics", "how does one step of a chain go?"),
    ("engine", "what makes whole runs fast?"),
    ("sampling", "what does a user call?"),
    ("diagnostics", "did it converge?"),
    ("data", "what is learnt from?"),
    ("evaluation", "how good is it?"),
    ("learning", "what is a system made of?"),
    ("systems", "which paper, which numbers?"),
    ("runs", "what happens to a training on disk and on screen?"),
    ("bench", "how fast is it, beside others?"),
    ("commands", "what does the command line do?"),
    ("cli", "what may a person type?"),
)
FLOOR = {wing: floor for floor, (wing, _) in enumerate(WINGS)}
FLOOR |= {"_C": -1, "kernels": FLOOR["ops"], "__main__": len(WINGS), "__init__": len(WINGS)}
FILES = [*sorted((ROOT / "hatebm").rglob("*.py")), *sorted((ROOT / "kernels").rglob("*.py"))]


MODULES = {}  # by dotted name
for path in FILES:
    parts = path.relative_to(ROOT).with_suffix("").parts
    MODULES[".".join(("hatebm", *parts) if parts[0] == "kernels" else parts).removesuffix(".__init__")] = path
NAMES = {path: name for name, path in MODULES.items()}


def wing_of(name):
    """The wing a module belongs to: its folder below hatebm/, or its own name."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(path):
    """Every module of hatebm that a file imports, wherever in the file and whatever for."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES or node.module == "hatebm" else node.module for name in whole)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_imports_point_down_or_stay_inside(path):
    here = wing_of(NAMES[path])
    assert here in FLOOR, f"{here} has no floor: give it one in WINGS"
    for name in imports_of(path):
        assert name.split(".")[0] != "kernels", f"{path}: `import kernels` would make a second copy"
        if name.startswith("hatebm."):
            there = wing_of(name)
            down = there == here or FLOOR[there] < FLOOR[here] or {there, here} == {"ops", "kernels"}
            assert down, f"{NAMES[path]} of {here} imports {name} of {there}, which stands above or beside it"


def test_no_files_import_one_another_in_a_circle():
    below = {NAMES[path]: {name for name in imports_of(path) if name in MODULES} for path in FILES}
    while free := [name for name, others in below.items() if not others & below.keys()]:
        for name in free:
            del below[name]
    assert not below, f"in or above a circle: {sorted(below)}"


def test_the_table_of_wings_is_the_readmes():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| `hatebm/(\w+)(?:/|\.py)` \| (.+?) \|$", text)
    assert rows == list(WINGS)


def test_few_files_stand_at_the_top():
    """Fewer than a glance takes in; the extension module is built, not written."""
    top = [path.name for path in (ROOT / "hatebm").iterdir() if path.is_file() and path.suffix != ".so"]
    assert len(top) <= 6, sorted(top)


def test_systems_do_not_import_one_another():
    """A system is a file or a folder below hatebm/systems."""
    for path in (path for path in FILES if wing_of(NAMES[path]) == "systems"):
        here = NAMES[path].split(".")[:3]
        for name in imports_of(path) if here[2:] != ["catalogue"] else ():
            assert not name.startswith("hatebm.systems.") or name.split(".")[:3] == here, f"{path}: {name}"


def test_importing_hatebm_needs_torch_alone():
    heavy = "{'triton', 'torchvision', 'sklearn', 'PIL', 'matplotlib', 'rich', 'safetensors', 'scipy'}"
    code = f"import sys, torch; before = set(sys.modules); import hatebm; print(({heavy} - before) & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"
