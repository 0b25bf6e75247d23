"""Error rates, power and stopping times of the statistics of experiments, by simulation."""
