"""The built packages, as users install them."""
