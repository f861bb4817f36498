"""Judges of answers, and the table that compares the stages."""
