"""Step 4: training with the objective."""
