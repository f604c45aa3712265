"""What a plugin may provide, and how plugins are found, checked and guarded."""
