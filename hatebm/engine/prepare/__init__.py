"""A user's network made fast for its gradient in the state: the same function, to float32 rounding.

``prepare(energy, state)`` at the beginning of a run follows the network (``tracing``), finds what can be rewritten
exactly (``rewrites``, ``placement``), chooses memory layout and parts by the network's shapes alone (``rules``), and
checks the outcome once against the network itself (``probe``). What it cannot follow it leaves alone and says why.
"""
