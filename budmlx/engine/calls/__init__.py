"""Waiting without blocking: procedures, and calls of plugins that may take for ever.

Imports nothing of the engine.
"""
