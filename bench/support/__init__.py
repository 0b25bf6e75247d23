"""Load generators, mock engines and platforms that the benches share."""
