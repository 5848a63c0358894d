"""Sources: databases whose changes are captured."""
