"""What all threads share, held at one value while any of them needs it: modes of modules, switches of torch."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Place = tuple[Any, str]  # an object and the name of its attribute


@dataclass(eq=False)
class Holder:
    """A thread that needs attributes to have a value."""

    thread: int
    places: frozenset[Place]
    value: Any


_lock = threading.RLock()
_changed = threading.Condition(_lock)
_holders: list[Holder] = []
_waiting: dict[int, Holder] = {}  # by thread
_found: dict[Place, Any] = {}  # what stood where somebody wrote


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


def standing(place: Place, read: Callable[[], Any] | None = None) -> Any:
    """What an attribute is when nobody holds it; ``read`` tells it where it stands, in place of a look at it."""
    with _lock:
        if place in _found:
            return _found[place]
        return getattr(*place) if read is None else read()


def _alone() -> None:
    """In a child made by fork no other thread lives on, nor lets go of what it held."""
    global _lock, _changed
    _lock = threading.RLock()
    _changed = threading.Condition(_lock)
    _waiting.clear()
    for holder in [holder for holder in _holders if holder.thread != threading.get_ident()]:
        _holders.remove(holder)
        for place in holder.places & _found.keys():
            _put_back(place)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alone)


def _write(place: Place, value: Any) -> None:
    found = getattr(*place)
    if found != value:
        _found.setdefault(place, found)
        setattr(*place, value)


def _put_back(place: Place) -> None:
    """Leave a place to those that still hold it, and to the caller after the last."""
    left = [holder.value for holder in _holders if place in holder.places]
    _write(place, left[-1] if left else _found[place])
    if getattr(*place) == _found[place]:
        del _found[place]


def _wait_for_others(mine: Holder) -> None:
    while others := _others(mine):
        if _lead_to(mine.thread, others):
            names = sorted({name for _, name in mine.places})
            raise RuntimeError(f"langevin: two threads wait for each other, each to have {names} at a value of its own")
        _waiting[mine.thread] = mine
        try:
            _changed.wait()
        finally:
            del _waiting[mine.thread]


def _others(mine: Holder) -> set[int]:
    """The threads that hold something of mine at another value."""
    threads = {other.thread for other in _holders if other.value != mine.value and other.places & mine.places}
    return threads - {mine.thread}


def _lead_to(thread: int, others: set[int]) -> bool:
    """Whether one of the others is the thread, or waits for one that leads to it."""
    return thread in others or any(_lead_to(thread, _others(_waiting[other])) for other in others & _waiting.keys())
