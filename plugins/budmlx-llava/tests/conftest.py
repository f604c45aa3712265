"""The fixtures that budmlx has for plugins."""

pytest_plugins = ["budmlx.testing"]
