"""Scheduling: which rows run and what the next forward passes compute, as plans for the executor.

May import everything of the core but the loop and the model; it touches no array and no clock.
"""
