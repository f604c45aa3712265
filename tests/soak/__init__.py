"""A server process with everything on, and clients that do what clients do, at random."""
