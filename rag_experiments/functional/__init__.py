"""Pure mathematics: no configuration, no input or output."""
