"""Tests of the way to LLM servers."""
