"""What clients keep with a server: in memory, or in a private SQLite file.

It may import what all of the engine may.
"""
