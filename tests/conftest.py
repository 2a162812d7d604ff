"""What all tests share."""

from hypothesis import settings

# A test says whether code is right, not whether this machine was busy; and it says the same every
# time.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
