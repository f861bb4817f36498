"""A language model as the judge of answers: what it is asked, where it is asked, what of its replies is believed."""
