"""The decoder and its heads as plain functions over parameter trees; Hugging Face and GGUF in and out."""
