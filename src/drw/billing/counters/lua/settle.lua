-- Moves what was used from reserved to spent, and releases the rest.
-- While the counters are closed it stays reserved: whether they were rebuilt with its row is known once they are open.
-- Once the lease is over only the reaper settles, so that two never settle the same.
-- Arguments: now, process (empty: the reaper, for a process that died), id, at, number of rows that the ledger has as
-- not posted, these, then for each charge: subject, nano, tokens
local now, process, id, rows = clock(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[5])
local at, settled = moment(ARGV[4], now), P .. 'settled:' .. id
if not open() then return 'closed' end
if redis.call('EXISTS', settled) == 1 then
  redis.call('EXPIRE', settled, ASKED_AGAIN, 'GT')
  return 'elsewhere'
end
if redis.call('EXISTS', P .. 'h:' .. id) == 0 then return 'unknown' end
if process ~= '' and not leased(process, now) then return 'elsewhere' end
local names, held = take(id)
redis.call('SET', settled, 1, 'EX', process == '' and KNOWN or ASKED_AGAIN)
local holds, posted = {}, false
for _, key in ipairs(names) do holds[key] = true end
for i = 6, 5 + rows do posted = posted or redis.call('EXISTS', P .. 'posted:' .. ARGV[i]) == 1 end
if not posted then
  for i = 6, 5 + rows do redis.call('SET', P .. 'posted:' .. ARGV[i], 1, 'EX', KNOWN) end
  for i = 6 + rows, #ARGV, 3 do
    local key, more = ARGV[i], {}
    if holds[key] then more, holds[key] = {n = held.n, t = held.t, c = held.c}, nil end
    charge(key, tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), at, more)
  end
end
for key in pairs(holds) do add_all(key, held) end
return posted and 'elsewhere' or 'counted'
