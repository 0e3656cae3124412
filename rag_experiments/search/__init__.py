"""Searches with Optuna in place of grids: what is searched, for what, and what is best."""
