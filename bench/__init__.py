"""`make bench`: budmlx against its peers and against the bare model, on one machine."""
