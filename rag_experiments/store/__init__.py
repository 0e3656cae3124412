"""Results of stages, kept by content."""
