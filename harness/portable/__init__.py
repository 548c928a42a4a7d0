"""Opening and locking files, on every system that the harness runs on."""
