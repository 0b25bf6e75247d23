-- Removes a lease without reservations.
-- Arguments: process
if redis.call('SCARD', P .. 'p:' .. ARGV[1]) > 0 then return 0 end
redis.call('ZREM', P .. 'leases', ARGV[1])
return 1
