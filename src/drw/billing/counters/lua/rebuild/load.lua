-- Sets counters during a rebuild; reserved amounts stay.
-- Arguments: for each subject: its key, the number of fields and values, the fields and values
if open() then return 0 end
local i = 1
while i <= #ARGV do
  local n = tonumber(ARGV[i + 1])
  local flat = {}
  for j = i + 2, i + 1 + n do table.insert(flat, ARGV[j]) end
  redis.call('HSET', ARGV[i], unpack(flat))
  i = i + 2 + n
end
return 1
