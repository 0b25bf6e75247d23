"""Load generators, mock engines and platforms that the benchmarks share."""
