"""Hosts of a core: a thread, or a child process that is watched and restarted.

Imports nothing of the engine.
"""
