"""The processes of a run: how they start, meet, live and end."""
