"""Several ranks: rank 0 decides, and the others carry out the same plans.

May import `batch` and what that imports.
"""
