"""Settings: built-in defaults, then a YAML file, then LOOPWRIGHT_* variables, then flags."""
