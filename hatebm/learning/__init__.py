"""What a system is made of: its learner, its configuration, its symptoms, and the value that holds them."""
