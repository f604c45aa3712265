"""Launching coding agents against a server: which there are, and what each of them needs.

May import the rest of the command line.
"""
