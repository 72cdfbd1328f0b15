"""Export runs and their history as tables."""
