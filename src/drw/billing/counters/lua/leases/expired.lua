-- Returns the reservations of processes whose lease ended longer ago than the grace period, and the processes that
-- hold none.
-- Arguments: now, grace in ms
local ended = redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', text(clock(ARGV[1]) - tonumber(ARGV[2])))
local reservations, idle = {}, {}
for _, process in ipairs(ended) do
  for _, id in ipairs(redis.call('SMEMBERS', P .. 'p:' .. process)) do
    local h = redis.call('HMGET', P .. 'h:' .. id, 'n', 't', 'a')
    table.insert(reservations, {process, id, h[1], h[2], h[3]})
  end
  if redis.call('SCARD', P .. 'p:' .. process) == 0 then table.insert(idle, process) end
end
return {reservations, idle}
