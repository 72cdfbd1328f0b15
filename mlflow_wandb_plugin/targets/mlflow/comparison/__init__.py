"""Comparison of an MLflow run with what a backfill would write into it now, value by value."""
