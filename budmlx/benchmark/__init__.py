"""Load on a server and its measurements, for `budmlx bench` and for `bench/`.

Imports nothing of budmlx but errors.
"""
