"""`budmlx doctor`: what may keep models from running well on this machine."""
