"""Step 2: questions and passages, read, checked, normalised, chunked and split."""
