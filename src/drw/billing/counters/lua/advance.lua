-- Writes ahead how far an answer may go. Returns 0 where the reservation is not held any more.
-- Arguments: now, process, id, attempts
if not leased(ARGV[2], clock(ARGV[1])) then return 0 end
if redis.call('EXISTS', P .. 'h:' .. ARGV[3]) == 0 then return 0 end
redis.call('HSET', P .. 'h:' .. ARGV[3], 'a', ARGV[4])
return 1
