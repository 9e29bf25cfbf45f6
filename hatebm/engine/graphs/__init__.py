"""Runs of steps captured once as a CUDA graph and replayed."""
