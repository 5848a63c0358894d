"""Contract suites that any source, broker or sink must pass."""
