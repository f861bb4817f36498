"""Records, sources, tokenizers and the batches that stages train on."""
