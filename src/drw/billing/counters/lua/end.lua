-- process: ends the lease of one that is dead, so that what it holds is settled as of any whose lease is over
return redis.call('ZADD', P .. 'leases', 'XX', 'CH', 0, ARGV[1])
