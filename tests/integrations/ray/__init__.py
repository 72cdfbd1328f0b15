"""Ray is an extra: without it these tests are skipped."""
