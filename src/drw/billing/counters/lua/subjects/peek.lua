-- Returns the counters and caps of each subject, with the tokens and requests of the minute.
-- Arguments: now, subjects...
local now = clock(ARGV[1])
local found = {}
for i = 2, #ARGV do
  local s = read(ARGV[i], now)
  s.rolled = nil
  local tokens, t_resets = ring_sum(ARGV[i], 'r', now, s.Cwa == 's')
  local requests, q_resets = ring_sum(ARGV[i], 'q', now, s.Cra == 's')
  local flat = {}
  for f, v in pairs(s) do table.insert(flat, f) table.insert(flat, type(v) == 'number' and text(v) or v) end
  for f, v in pairs({wt = tokens, wr = t_resets, qn = requests, qr = q_resets}) do
    table.insert(flat, f) table.insert(flat, text(v))
  end
  table.insert(found, flat)
end
return {tostring(redis.call('GET', P .. 'epoch') or ''), found}
