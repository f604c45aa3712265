"""Where a core runs: a thread or a child process, which is watched and restarted.

Imports nothing of the engine.
"""
