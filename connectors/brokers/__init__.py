"""Brokers: where topics live."""
