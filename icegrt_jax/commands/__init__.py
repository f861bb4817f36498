"""The programs of a run, each read from top to bottom."""
