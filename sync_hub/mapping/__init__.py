"""Mappings: how events of one source table become rows of one target table."""
