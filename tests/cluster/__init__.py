"""Against a real scheduler, a real service manager, real file systems."""
