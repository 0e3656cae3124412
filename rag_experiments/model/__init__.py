"""Step 3: the RAG model: generator, query encoder, and how passages are combined."""
