"""Step 5: the answers of a run scored, explained, and set against references."""
