-- Adds the charges to spent, and releases the reservation.
-- While the counters are closed it stays reserved, because the rebuild may include its row.
-- After the end of the lease only the reaper settles, so that a reservation is settled once.
-- Arguments: now, process (empty: the reaper, for a dead process), id, at, number of rows that are not marked as posted
-- in the ledger, these rows, then for each charge: subject, nano, tokens
local now, process, id, rows = clock(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[5])
local at, settled = not_after(ARGV[4], now), P .. 'settled:' .. id
if not open() then return 'closed' end
if redis.call('EXISTS', settled) == 1 then
  redis.call('EXPIRE', settled, RETRY_MARK_SECONDS, 'GT')
  return 'elsewhere'
end
if redis.call('EXISTS', P .. 'h:' .. id) == 0 then return 'unknown' end
if process ~= '' and not has_lease(process, now) then return 'elsewhere' end
local names, held = remove_reservation(id)
redis.call('SET', settled, 1, 'EX', process == '' and MARK_SECONDS or RETRY_MARK_SECONDS)
local holds, posted = {}, false
for _, key in ipairs(names) do holds[key] = true end
for i = 6, 5 + rows do posted = posted or redis.call('EXISTS', P .. 'posted:' .. ARGV[i]) == 1 end
if not posted then
  for i = 6, 5 + rows do redis.call('SET', P .. 'posted:' .. ARGV[i], 1, 'EX', MARK_SECONDS) end
  for i = 6 + rows, #ARGV, 3 do
    local key, more = ARGV[i], {}
    if holds[key] then more, holds[key] = {n = held.n, t = held.t, c = held.c}, nil end
    charge(key, tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), at, more)
  end
end
for key in pairs(holds) do add_all(key, held) end
return posted and 'elsewhere' or 'counted'
