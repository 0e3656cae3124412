"""Where runs are recorded."""
