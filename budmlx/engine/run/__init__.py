"""Running requests on a host, alone or beside others.

May import `engine.request`, `engine.reuse`, `engine.hosts` and what these import.
"""
