-- Counts ledger rows without a reservation, each once. Rejects rows that were read so long ago that the mark of an
-- earlier posting may have expired. Spending of a subject within one bucket of time is added in one step.
-- Arguments: now, when the rows were read, then for each row: id, at, number of charges, for each: subject, nano, tokens
local now = clock(ARGV[1])
if not open() then return -1 end
if now - tonumber(ARGV[2]) > POSTED_MARK_SECONDS * 500 then return -2 end
local counted, sums, order, i = 0, {}, {}, 3
while i <= #ARGV do
  local at, last = not_after(ARGV[i + 1], now), i + 2 + 3 * tonumber(ARGV[i + 2])
  if redis.call('SET', P .. 'posted:' .. ARGV[i], 1, 'NX', 'EX', MARK_SECONDS) then
    counted = counted + 1
    for j = i + 3, last, 3 do
      local id = ARGV[j] .. ' ' .. math.floor(at / BUCKET)
      local sum = sums[id]
      if not sum then
        sum = {key = ARGV[j], nano = 0, tokens = 0, at = at}
        sums[id] = sum
        table.insert(order, sum)
      end
      sum.nano, sum.tokens = sum.nano + tonumber(ARGV[j + 1]), sum.tokens + tonumber(ARGV[j + 2])
    end
  end
  i = last + 1
end
for _, sum in ipairs(order) do charge(sum.key, sum.nano, sum.tokens, sum.at, {}) end
return counted
