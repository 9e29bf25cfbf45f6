"""In which precision torch takes products, convolutions and recurrences of float32: IEEE, TF32, or as it is set.

Its switches are of the whole process: a thread holds them while it needs them, see :mod:`hatebm.energies.held`.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch._C import _get_fp32_precision_getter as name_of  # what torch.backends asks, in a tenth of the time
from torch._C import _set_fp32_precision_setter as set_name

from hatebm.energies.held import held, standing

OPS = ("products", "convolutions", "recurrences")
_OPS = ("matmul", "conv", "rnn")  # as torch calls them
IEEE, TF32 = ("ieee",) * 3, ("tf32",) * 3
UNSET = "none"  # a switch that follows a wider one, and computes in IEEE where that is unset too
_nothing = nullcontext()


class Switches:
    """The precision of products, convolutions and recurrences on one kind of device, by torch's names for it."""

    def __init__(self, backend: str, at_first: Sequence[str]) -> None:
        self.backend, self.at_first = backend, at_first

    @property
    def precision(self) -> tuple[str, ...]:
        """Of each switch; a name that is the wider one's, and not its own at first, is taken to come from there."""
        wider, names = name_of(self.backend, "all"), [name_of(self.backend, op) for op in _OPS]
        return tuple([UNSET if a == wider != b else a for a, b in zip(names, self.at_first, strict=True)])

    @precision.setter
    def precision(self, names: tuple[str, ...]) -> None:
        for op, now, name in zip(_OPS, self.precision, names, strict=True):
            if now != name:
                set_name(self.backend, op, name)

    def set_to(self) -> tuple[str, ...]:
        """What is computed in when nobody holds them."""
        names = standing((self, "precision"), self._soon_told)
        if UNSET in names:
            wider = name_of(self.backend, "all")
            wider = "ieee" if wider == UNSET else wider
            return tuple([wider if name == UNSET else name for name in names])
        return names

    def _soon_told(self) -> tuple[str, ...]:
        """IEEE, where that is what all have come to: every run asks."""
        backend = self.backend
        for op in _OPS:
            if name_of(backend, op) not in (UNSET, "ieee"):
                return self.precision
        return IEEE


class CudaSwitches(Switches):
    """Those of CUDA, which have older names too; torch refuses to read these where they say something else."""

    _found: tuple[tuple[str, ...], str | None] | None = None

    @property
    def precision(self) -> tuple[str, ...]:
        """Of each switch, by the newer names."""
        return super().precision

    @precision.setter
    def precision(self, names: tuple[str, ...]) -> None:
        now = self.precision
        if self._found is None or now == self._found[0]:
            self._found = now, _older_name()
        if now[0] != names[0]:
            torch.backends.cuda.matmul.allow_tf32 = names[0] == "tf32"
        if now[1:] != names[1:]:
            torch.backends.cudnn.allow_tf32 = names[1] == "tf32"
        Switches.precision.fset(self, names)
        if names == self._found[0]:
            self._put_back(names, self._found[1])

    def _put_back(self, names: tuple[str, ...], older: str | None) -> None:
        """Let the older name of products be the one that was found, of three where a switch of CUDA has two."""
        self._found = None
        if older is not None and older != _older_name():
            processor = ON_CPU.precision
            torch.set_float32_matmul_precision(older)
            ON_CPU.precision = processor
            Switches.precision.fset(self, names)


def _older_name() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer names say something that the older ones cannot
        return None


ON_CPU = Switches("mkldnn", (UNSET,) * 3)
ON_CUDA = CudaSwitches("cuda", (UNSET, "tf32", "tf32"))
CPU, CUDA = (ON_CPU, "precision"), (ON_CUDA, "precision")


def set_to(device: torch.device) -> tuple[str, ...]:
    """In what torch is set to take products, convolutions and recurrences, whatever other threads hold."""
    return (ON_CUDA if device.type == "cuda" else ON_CPU).set_to()


def under_autocast(device: torch.device) -> bool:
    """Whether the caller takes them in half precision."""
    kind = device.type
    return (kind in ("cpu", "cuda") or torch.amp.is_autocast_available(kind)) and torch.is_autocast_enabled(kind)


def is_ieee(device: torch.device) -> bool:
    """Whether float32 is float32 as torch is set."""
    return not under_autocast(device) and set_to(device) == IEEE


def as_set(device: torch.device) -> AbstractContextManager[None]:
    """Everything in the precision that torch is set to, whatever other threads run."""
    place, exact = CUDA if device.type == "cuda" else CPU, set_to(device) == IEEE
    if exact and place is CPU:
        return _nothing
    return held([place], IEEE if exact else standing(place))


def ieee_switches(device: torch.device) -> AbstractContextManager[None]:
    """Everything in IEEE float32, but for autocast."""
    if device.type == "cuda":
        return held([CUDA, CPU], IEEE)  # together: their older name is one
    return _nothing if set_to(device) == IEEE else held([CPU], IEEE)


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Everything as if the caller had no autocast."""
    return torch.autocast(device.type, enabled=False) if under_autocast(device) else _nothing


def ieee(device: torch.device) -> AbstractContextManager[None]:
    """Everything in IEEE float32, as energies are compared in."""
    if torch.compiler.is_compiling() or (device.type != "cuda" and is_ieee(device)):
        return _nothing
    return _both(without_autocast(device), ieee_switches(device))


@contextmanager
def reduced(precision: str, device: torch.device) -> Iterator[None]:
    """Convolutions and matrix products in the precision; everything else in float32."""
    if precision == "tf32":
        with held([CUDA], TF32):
            yield
        return
    with torch.autocast(device.type, dtype=torch.bfloat16), as_set(device):
        yield


@contextmanager
def _both(*contexts: AbstractContextManager[None]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield
