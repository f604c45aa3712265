"""The models of a server or program: which there are, which are loaded, and how they share memory.

`models.Models` is the facade; `catalogue` knows the names, `residency` loads and unloads,
`shares` divides the memory. Imports everything of the engine.
"""
