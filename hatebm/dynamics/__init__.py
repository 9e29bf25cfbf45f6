"""How one step of a chain goes: its law, its blocks, the gradient, the transition, and what is watched."""
