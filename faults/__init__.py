"""A campaign of faults over runs that are written to both homes, and a soak: see docs/faults.md."""
