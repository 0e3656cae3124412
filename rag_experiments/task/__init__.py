"""Step 1: the task, its prompt, and the metric to optimise."""
