"""Triton's compiler, called without a GPU."""

import pytest
from disassembly import triton


def compile_triton(function, architecture, signature, constants, **options):
    """A kernel compiled ahead of time for aligned tensors; arguments without a type are constants, None if absent."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = dict(enumerate(function.arg_names))
    aligned = {name for name, kind in signature.items() if kind[0] == "*"} | {"numel"}
    source = ASTSource(
        fn=function,
        signature={name: signature.get(name, "constexpr") for name in names.values()},
        constexprs={(i,): constants.get(name) for i, name in names.items() if name not in signature},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in names.items() if name in aligned},
    )
    options = {"enable_fp_fusion": False} | options
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


class Target:
    """A driver for launches that compile and go no further."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


@pytest.fixture
def launched(monkeypatch):
    """The variants of each kernel that launches would compile, without a GPU."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    found = {}

    def launch(kernel, grid):
        def compile_only(*arguments, **settings):
            kernel.warmup(*arguments, grid=grid, **settings)
            found[kernel.fn.__name__] = sum(len(caches[0]) for caches in kernel.device_caches.values())

        return compile_only

    monkeypatch.setattr(JITFunction, "__getitem__", launch)
    monkeypatch.setattr(driver, "_active", Target())
    return found
