"""Against real FireWorks, which runs in a virtual environment of its own."""
