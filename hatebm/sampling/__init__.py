"""What a user calls: chains, and the samplers made of them."""
