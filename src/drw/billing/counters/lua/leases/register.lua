-- Begins a lease. A process can register reservations only while the counters are being rebuilt.
-- Arguments: now, ttl in ms, process, then for each reservation: id, nano, tokens, step, subjects, attempts
local now = clock(ARGV[1])
local process = ARGV[3]
if #ARGV > 3 and open() then return 0 end
redis.call('ZADD', P .. 'leases', text(now + tonumber(ARGV[2])), process)
for i = 4, #ARGV, 6 do
  local key = P .. 'h:' .. ARGV[i]
  if redis.call('EXISTS', key) == 0 then
    redis.call('HSET', key, 'p', process, 'n', ARGV[i + 1], 't', ARGV[i + 2], 'o', ARGV[i + 3], 's', ARGV[i + 4],
      'a', ARGV[i + 5])
    redis.call('SADD', P .. 'p:' .. process, ARGV[i])
    for _, s in ipairs(cjson.decode(ARGV[i + 4])) do
      add(s, 'n', tonumber(ARGV[i + 1]))
      add(s, 't', tonumber(ARGV[i + 2]))
      add(s, 'c', 1)
    end
  end
end
if not open() then redis.call('INCR', P .. 'changes') end
return 1
