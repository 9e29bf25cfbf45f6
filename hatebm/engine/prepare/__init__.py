"""A user's network made fast for its gradient in the state: the same function, to float32 rounding."""
