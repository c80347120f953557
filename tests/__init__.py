"""The tests: unit (no server), mongo (real mongod), interop (real FireWorks), faults, cluster."""
