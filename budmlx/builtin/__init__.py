"""What ships as plugins, through the hooks that everybody has."""
