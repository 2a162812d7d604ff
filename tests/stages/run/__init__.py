"""Tests of the chain of commands."""
