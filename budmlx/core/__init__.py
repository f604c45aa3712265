"""The ring that owns MLX: token ids in, token ids out, on exactly one thread."""
