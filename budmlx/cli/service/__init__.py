"""`budmlx service`: the server as a service of the system, by launchd or systemd."""
