"""Not built yet: see the project plan."""
