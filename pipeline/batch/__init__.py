"""Many tasks: read from a file, run several at a time, each to an outcome that is kept. No Ray in here."""
