"""Networks for small configurations: as deep as the images are large, and narrow enough for a CPU."""

from hatebm.errors import UsageError


def halvings(size: int) -> int:
    """How often images of that size can be halved down to 4 pixels or more.

    Raises UsageError for a size that is no multiple of 8 from 16 to 128.
    """
    if not (8 < size <= 128 and size % 8 == 0):
        raise UsageError(f"--size: wanted a multiple of 8 from 8 to 128, got {size}")
    times = 0
    while size % 2 == 0 and size // 2 >= 4:
        size, times = size // 2, times + 1
    return times


def widening(times: int) -> tuple[int, ...]:
    """Widths of a network that halves its images so often."""
    return (16, 32, 64, 64, 64, 64)[: times + 1]


def narrowing(times: int) -> tuple[int, ...]:
    """Widths of a generator that doubles its images so often."""
    return (16, 16, 32, 64, 64, 64)[times::-1]
