"""llama.cpp model files, in."""
