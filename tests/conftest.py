"""What holds for every test."""

from hypothesis import settings

# A loaded machine is slow, not wrong.
settings.register_profile("psdp", deadline=None)
settings.load_profile("psdp")
