"""The published systems, a folder each, and the catalogue of them."""
