"""Programs that use a real Ray; each runs in a process of its own."""
