"""The training scripts of the campaign; each runs in a process of its own."""
