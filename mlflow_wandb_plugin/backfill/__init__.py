"""Backfill: plan, engine, verify, report."""
