"""Command lines composed and checked, before anything heavy is imported."""
