-- Ends the lease of a dead process; its reservations are settled like those of any ended lease.
-- Arguments: process
return redis.call('ZADD', P .. 'leases', 'XX', 'CH', 0, ARGV[1])
