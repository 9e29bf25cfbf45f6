"""Runs of two stages, trained without a stop, and what is seen of others."""

import os
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
from shell import hatebm, pictures, train


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "pictures", 12)


@pytest.fixture
def unseen(monkeypatch):
    """Trainings end without their evaluation, which is tested elsewhere."""
    monkeypatch.setattr("hatebm.commands.train.report", lambda *_: None)


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory) -> dict[str, Path]:
    """A run of each system, trained without a stop."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hatebm.commands.train.report", lambda *_: None)
        for system in ("hat-refine", "hat-retrofit", "hat-synthesis"):
            said = hatebm(*train(system, data, folder / system))
            assert said.code == 0, said.err
    return {path.name: path for path in folder.iterdir()}


@contextmanager
def rows_seen(monkeypatch, at: int | None = None, then=None):
    """The rows of the trainings inside, and for each stage a mark; `then` is called when `at` of these were seen."""
    seen = []

    def see(row) -> None:
        seen.append(row)
        if len(seen) == at:
            then()

    @contextmanager
    def progress(total, done, shown):
        see("stage")
        yield see, print

    with monkeypatch.context() as patch:
        patch.setattr("hatebm.commands.train.progress", progress)
        yield seen


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)
