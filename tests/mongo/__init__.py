"""Against a real mongod."""
