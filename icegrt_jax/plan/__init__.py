"""Plans: every program of a run compiled ahead of time for a topology, without its hardware, and what that says."""
