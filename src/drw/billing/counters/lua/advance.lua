-- Writes down how far an answer may have gone before it goes there: 0, the reservation is not held any more.
-- now, process, id, attempts
if not leased(ARGV[2], clock(ARGV[1])) then return 0 end
if redis.call('EXISTS', P .. 'h:' .. ARGV[3]) == 0 then return 0 end
redis.call('HSET', P .. 'h:' .. ARGV[3], 'a', ARGV[4])
return 1
