"""Pages for people: `rank`, where answers are ranked, and `chat`, where models are talked to."""
