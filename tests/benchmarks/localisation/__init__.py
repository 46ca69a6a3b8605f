"""Where localisation ranks the known faults of the benchmarks, without a model."""
