"""Domains: what makes or finds the records of a run and grades its answers."""
