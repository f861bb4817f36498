"""Answers ranked by people: what they are shown, what they say of it, what is made of that."""
