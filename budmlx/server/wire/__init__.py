"""The shapes of requests and responses, one module per dialect."""
