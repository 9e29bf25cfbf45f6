"""Where things lie in the project."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
CSRC = ROOT / "csrc"


def matching(folder: Path, pattern: str) -> list[Path]:
    """The files in and below a folder that match, in order: at least one."""
    paths = sorted(folder.rglob(pattern))
    assert paths, f"nothing in {folder} is a {pattern}"
    return paths
