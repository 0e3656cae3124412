"""Declarative experiments for fine-tuning retrieval-augmented generation models."""

__version__ = "0.1.0"
