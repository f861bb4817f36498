"""The report of a run: curves, page and model card."""
