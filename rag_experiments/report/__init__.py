"""Runs compared with each other, explained, and what to try next: pages that people read."""
