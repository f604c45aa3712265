"""Load on a server, and what it measured: for `budmlx bench` and for `bench/`.

Imports nothing of budmlx but errors.
"""
