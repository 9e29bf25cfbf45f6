"""The published systems, one module each."""
