"""Settings of the property tests."""

from hypothesis import settings

# A shared machine pauses; how long an example takes says nothing.
settings.register_profile("budmlx", deadline=None, max_examples=40)
settings.load_profile("budmlx")
