"""Runs of steps captured once as a CUDA graph and replayed, where a chain may (``refusals``).

Captured is the chain's own step (``static_step``) on tensors that stay where they are (``static_buffers``), among them
the energy's keyword arguments (``arguments``) and G(z) of a z that rests (``images``); it is looked at beforehand and
compared with its first replay (``replay_check``). What steps tell is written by a second graph (``graph``). A graph is
used again only where all that it depends on is known to be the same (``cache_key``); weights are read when it runs.
"""
