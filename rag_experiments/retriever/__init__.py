"""Step 3: the knowledge source, made searchable."""
