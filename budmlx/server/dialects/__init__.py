"""The protocols that clients speak, a folder for each. They import nothing of each other.

A new one needs its own folder, with a `Dialect` (see `base`), and its name in `registry`.
"""
