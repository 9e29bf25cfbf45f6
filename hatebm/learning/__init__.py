"""What a system is made of: learners and their configuration."""
