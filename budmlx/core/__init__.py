"""The ring that owns MLX: token ids in, token ids out, on exactly one thread.

Its folders import each other in this order only: loop -> warmup -> schedule -> batch -> reuse ->
model, batch -> sample, and all of them the row and the activity. Of budmlx, the core imports
errors, backend, types, protocol and the values of plugins.
"""
