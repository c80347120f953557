"""Fast, without a server and without a network."""
