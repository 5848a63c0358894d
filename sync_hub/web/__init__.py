"""Health, metrics, API and console over HTTP."""
