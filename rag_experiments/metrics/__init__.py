"""Step 5: evaluation."""
