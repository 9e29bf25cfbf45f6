"""Runs of steps captured once as a CUDA graph and replayed, where a chain may (``refusals``).

Captured is the chain's own step on tensors that stay where they are (``static_buffers``), looked at beforehand and
compared with its first replay (``replay_check``). A graph is used again only where all that it depends on is known to
be the same (``cache_key``); weights are read when it runs.
"""
