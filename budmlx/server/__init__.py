"""The HTTP server: dialects in, events out.

Transport, security, limits and life of the server are here; the protocols on the wire
are in `dialects`, endpoints that belong to none are in `routes`. `dialects.registry` alone imports
dialects, and `app` alone imports it; everything else finds them in the application.
"""
