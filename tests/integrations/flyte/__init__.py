"""The Flyte integration, with real Flyte: skipped where Flyte is not installed."""
