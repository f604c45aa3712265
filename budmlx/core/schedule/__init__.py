"""Which rows run, and what the next forward passes compute.

May import everything of the core but the loop.
"""
