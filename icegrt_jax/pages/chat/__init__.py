"""The models of a run side by side: in the terminal, on a page, and what is kept of a conversation."""
