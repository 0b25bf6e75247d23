-- Writes the attempts of a call ahead. Returns 0 if the reservation is no longer held.
-- Arguments: now, process, id, attempts
if not has_lease(ARGV[2], clock(ARGV[1])) then return 0 end
if redis.call('EXISTS', P .. 'h:' .. ARGV[3]) == 0 then return 0 end
redis.call('HSET', P .. 'h:' .. ARGV[3], 'a', ARGV[4])
return 1
