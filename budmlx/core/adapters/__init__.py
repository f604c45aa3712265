"""LoRA adapters: their files, the layers that compute them beside the model's own, and which of
them each row of a pass has.

Imports nothing of the core.
"""
