"""Hypothesis health checks that the tests suppress.

A test's own ``suppress_health_check`` replaces the profile's list: a test that suppresses one more
check names a list that has the profile's checks too.
"""

from __future__ import annotations

from hypothesis import HealthCheck

ON_LOAD = (HealthCheck.too_slow,)
"""Checks whose result depends on the machine's load; both profiles suppress them."""

WITH_FIXTURE = (*ON_LOAD, HealthCheck.function_scoped_fixture)
"""For a test that uses one function-scoped fixture for all its examples."""
