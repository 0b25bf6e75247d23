-- Ends a rebuild, unless a process has registered reservations since the survey.
-- Arguments: epoch, changes, number of settled reservations, their ids, ledger rows that the loaded counters include
if tostring(redis.call('GET', P .. 'changes') or '0') ~= ARGV[2] then return 0 end
if open() then return 0 end
local last = 3 + tonumber(ARGV[3])
for i = 4, last do
  local names, held = remove_reservation(ARGV[i])
  for _, key in ipairs(names or {}) do add_all(key, held) end
  redis.call('SET', P .. 'settled:' .. ARGV[i], 1, 'EX', MARK_SECONDS)
end
for i = last + 1, #ARGV do redis.call('SET', P .. 'posted:' .. ARGV[i], 1, 'EX', MARK_SECONDS) end
redis.call('SET', P .. 'epoch', ARGV[1])
return 1
