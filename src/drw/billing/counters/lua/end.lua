-- Ends the lease of a process that is dead: its reservations are settled as those of any lease that ended.
-- Arguments: process
return redis.call('ZADD', P .. 'leases', 'XX', 'CH', 0, ARGV[1])
