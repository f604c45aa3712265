"""Telemetry: what the server did, for those who watch."""
