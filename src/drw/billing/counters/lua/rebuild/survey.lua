-- Returns the state at the start of a rebuild: the number of leases that began, the processes, the reservations.
local answer = {tostring(redis.call('GET', P .. 'changes') or '0'), {}, {}}
for _, process in ipairs(redis.call('ZRANGE', P .. 'leases', 0, -1)) do
  table.insert(answer[2], process)
  for _, id in ipairs(redis.call('SMEMBERS', P .. 'p:' .. process)) do table.insert(answer[3], id) end
end
return answer
