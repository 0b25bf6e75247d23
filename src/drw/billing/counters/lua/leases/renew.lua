-- Renews a lease. Returns 0 if it has ended.
-- Arguments: now, ttl in ms, process
local now = clock(ARGV[1])
if not has_lease(ARGV[3], now) then return 0 end
redis.call('ZADD', P .. 'leases', text(now + tonumber(ARGV[2])), ARGV[3])
return 1
