"""Sinks: the code that writes to targets."""
