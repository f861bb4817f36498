"""What lm-evaluation-harness asks of a model, compiled: log-likelihoods, and text up to a stop string."""
