"""Settings of the property tests."""

from hypothesis import settings

# A shared machine pauses; how long an example takes says nothing.
settings.register_profile("budmlx", deadline=None)
settings.load_profile("budmlx")
