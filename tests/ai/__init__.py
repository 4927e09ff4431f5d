"""Tests of what handlers call."""
