"""For the unit tier: hypothesis asserts nothing on time, as no test does; the machine may be busy."""

from hypothesis import settings

settings.register_profile("patient", parent=settings.default, deadline=None)
settings.load_profile("patient")
