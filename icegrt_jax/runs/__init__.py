"""What the programs of a run share."""
