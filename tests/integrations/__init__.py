"""Tests of the integration packages, with the real libraries."""
