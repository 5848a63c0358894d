"""Everything that talks to an outside system. The only code that imports a driver."""
