"""The benchmarks of `hatebm bench`: contenders that agree on the same work, then take turns on the clock."""
