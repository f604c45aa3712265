"""Which rows run, and what the next forward passes compute: makes plans, takes their results.

May import everything of the core but the loop and the model; it touches no array and no clock.
"""
