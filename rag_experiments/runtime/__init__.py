"""The process that a run lives in: device and seed, memory, disk, time, signals, its fellows."""
