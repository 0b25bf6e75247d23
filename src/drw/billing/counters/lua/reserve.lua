-- Reserves for all subjects or for none. A step that is repeated gets the answer that it got before.
-- A later step may add a subject, which then holds all that the others do.
-- Arguments: now, process, id, step, nano, tokens, minimum nano and tokens (-1: all or nothing), attempts, subjects...
local now, process, id, step = clock(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local nano, tokens = tonumber(ARGV[5]), tonumber(ARGV[6])
local min_nano, min_tokens = tonumber(ARGV[7]), tonumber(ARGV[8])
if not open() then return {'closed'} end
if not leased(process, now) then return {'unregistered'} end
local held = redis.call('HMGET', P .. 'h:' .. id, 'n', 't', 'o', 's')
local more = held[1] and true or false
if step > 1 and not more then return {'lost'} end
if more and tonumber(held[3]) >= step then return {'granted', held[1], held[2]} end

-- A subject that joins later holds what is reserved already too; one that is in it is asked for no more than is new.
local had = {}
for _, key in ipairs(more and cjson.decode(held[4]) or {}) do had[key] = true end
local had_nano, had_tokens = tonumber(held[1] or 0), tonumber(held[2] or 0)
local function free(key, cap, used, own) return had[key] and math.max(cap - used, 0) or cap - used - own end

local left_nano, left_tokens, nano_by, tokens_by = math.huge, math.huge, nil, nil
local window, found = {}, {}
for i = 10, #ARGV do
  local key = ARGV[i]
  if redis.call('SISMEMBER', P .. 'capped', key) == 1 then -- the counters of all others bind nothing
    local s = read(key, now)
    found[i] = s
    local money = {{'day', s.Cdn, s.dn}, {'month', s.Cmn, s.mn}, {'total', s.Ctn, s.tn}}
    for _, b in ipairs(money) do
      if b[2] and free(key, b[2], b[3] + s.n, had_nano) < left_nano then
        left_nano, nano_by = free(key, b[2], b[3] + s.n, had_nano), {i - 9, 'money', b[1], b[2], 0}
      end
    end
    local counts = {{'day', s.Cdt, s.dt, 0}, {'month', s.Cmt, s.mt, 0}, {'total', s.Ctt, s.tt, 0}}
    if s.Cw then
      local sum, resets = ring_sum(key, 'r', now, s.Cwa == 's')
      table.insert(counts, {'minute', s.Cw, sum, resets})
      local left = free(key, s.Cw, sum + s.t, had_tokens)
      if not window[1] or left < window[2] then window = {s.Cw, left, resets} end
    end
    for _, b in ipairs(counts) do
      if b[2] and free(key, b[2], b[3] + s.t, had_tokens) < left_tokens then
        left_tokens, tokens_by = free(key, b[2], b[3] + s.t, had_tokens), {i - 9, 'tokens', b[1], b[2], b[4]}
      end
    end
    if not had[key] and s.Cc and s.Cc - s.c < 1 then
      return {'refused', i - 9, 'concurrent', '', text(s.Cc), '0', '0'}
    end
    if not had[key] and s.Cr then
      local sum, resets = ring_sum(key, 'q', now, s.Cra == 's')
      if s.Cr - sum < 1 then return {'refused', i - 9, 'requests', 'minute', text(s.Cr), '0', text(resets - now)} end
    end
  end
end

local function refused(by, left)
  local wait = by[5] > 0 and by[5] - now or 0
  return {'refused', by[1], by[2], by[3], text(by[4]), text(math.max(left, 0)), text(wait)}
end
local partial = min_nano >= 0
if left_nano < (partial and min_nano or nano) then return refused(nano_by, left_nano) end
if left_tokens < (partial and min_tokens or tokens) then return refused(tokens_by, left_tokens) end
nano, tokens = math.min(nano, left_nano), math.min(tokens, left_tokens)

local names = {}
for i = 10, #ARGV do
  local key, s = ARGV[i], found[i]
  local own = had[key] and {n = 0, t = 0, c = 0} or {n = had_nano, t = had_tokens, c = 1}
  local taken = {n = nano + own.n, t = tokens + own.t, c = own.c}
  if s then put(key, s, taken) else add_all(key, taken) end
  if not had[key] and s and s.Cr then ring_add(key, 'q', now, 1) end
  table.insert(names, key)
end
local all_nano, all_tokens = nano + had_nano, tokens + had_tokens
redis.call('HSET', P .. 'h:' .. id, 'p', process, 'n', text(all_nano), 't', text(all_tokens), 'o', step,
  's', cjson.encode(names), 'a', ARGV[9])
redis.call('SADD', P .. 'p:' .. process, id)
local answer = {'granted', text(all_nano), text(all_tokens)}
if window[1] then
  for _, x in ipairs({window[1], math.max(0, window[2] - tokens), window[3] - now}) do
    table.insert(answer, text(x))
  end
end
return answer
