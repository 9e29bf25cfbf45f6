"""What all threads share, held at one value while any of them needs it: modes of modules, switches of torch."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

Place = tuple[Any, str]  # an object and the name of its attribute

_changed = threading.Condition()
_holders: "list[Holder]" = []
_waiting: set[int] = set()
_found: dict[Place, Any] = {}  # what stood where somebody wrote


class Holder(NamedTuple):
    """A thread that needs attributes to have a value."""

    thread: int
    places: frozenset[Place]
    value: Any


@contextmanager
def held(places: Sequence[Place], value: Any) -> Iterator[None]:
    """Keep attributes at a value, written where they differ; the last that leaves puts back what was found.

    A thread that wants another value waits for those that hold this one.

    Raises:
        RuntimeError: threads that would wait for each other.
    """
    mine = Holder(threading.get_ident(), frozenset(places), value)
    try:
        with _changed:
            _wait_for_others(mine)
            _holders.append(mine)
            for place in mine.places:
                _write(place, value)
        yield
    finally:
        with _changed:
            if mine in _holders:
                _holders.remove(mine)
                for place in mine.places & _found.keys():
                    _put_back(place)
                _changed.notify_all()


def _write(place: Place, value: Any) -> None:
    found = getattr(*place)
    if found != value:
        _found.setdefault(place, found)
        setattr(*place, value)


def _put_back(place: Place) -> None:
    left = [holder.value for holder in _holders if place in holder.places]
    _write(place, left[-1] if left else _found[place])
    if getattr(*place) == _found[place]:
        del _found[place]


def _wait_for_others(mine: Holder) -> None:
    while others := {h.thread for h in _holders if h.value != mine.value and h.places & mine.places} - {mine.thread}:
        holds = any(holder.thread == mine.thread for holder in _holders)
        if holds and others & _waiting:
            names = sorted({name for _, name in mine.places})
            raise RuntimeError(f"langevin: two threads wait for each other, each to have {names} at a value of its own")
        _waiting.add(mine.thread)
        try:
            _changed.wait()
        finally:
            _waiting.discard(mine.thread)
