"""The jobs of a sweep: run, gone on with, and what they leave."""
