"""What becomes of a training on disk and on screen."""
