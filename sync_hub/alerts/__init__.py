"""Tells people: what health finds becomes incidents, incidents become messages, messages go to their receivers."""
