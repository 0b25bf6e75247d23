-- Reserves for all subjects or for none. A repeated step returns the same result.
-- A later step can add a subject, for which the whole reservation is reserved.
-- Arguments: now, process, id, step, nano, tokens, minimum nano and tokens (-1: all or nothing), attempts, subjects...
local now, process, id, step = clock(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local nano, tokens = tonumber(ARGV[5]), tonumber(ARGV[6])
local min_nano, min_tokens = tonumber(ARGV[7]), tonumber(ARGV[8])
if not open() then return {'closed'} end
if not has_lease(process, now) then return {'unregistered'} end
local held = redis.call('HMGET', P .. 'h:' .. id, 'n', 't', 'o', 's')
local exists = held[1] and true or false
if step > 1 and not exists then return {'lost'} end
if exists and tonumber(held[3]) >= step then return {'granted', held[1], held[2]} end

-- For a subject that is added, the existing reservation is reserved too; for the others, only the new amounts.
local included = {}
for _, key in ipairs(exists and cjson.decode(held[4]) or {}) do included[key] = true end
local reserved_nano, reserved_tokens = tonumber(held[1] or 0), tonumber(held[2] or 0)
local function available(key, cap, used, reserved)
  return included[key] and math.max(cap - used, 0) or cap - used - reserved
end

local left_nano, left_tokens, nano_by, tokens_by = math.huge, math.huge, nil, nil
local window, states = {}, {}
for i = 10, #ARGV do
  local key = ARGV[i]
  if redis.call('SISMEMBER', P .. 'capped', key) == 1 then -- other subjects have no caps
    local s = read(key, now)
    states[i] = s
    local money = {{'day', s.Cdn, s.dn}, {'month', s.Cmn, s.mn}, {'total', s.Ctn, s.tn}}
    for _, b in ipairs(money) do
      if b[2] and available(key, b[2], b[3] + s.n, reserved_nano) < left_nano then
        left_nano, nano_by = available(key, b[2], b[3] + s.n, reserved_nano), {i - 9, 'money', b[1], b[2], 0}
      end
    end
    local counts = {{'day', s.Cdt, s.dt, 0}, {'month', s.Cmt, s.mt, 0}, {'total', s.Ctt, s.tt, 0}}
    if s.Cw then
      local sum, resets = ring_sum(key, 'r', now, s.Cwa == 's')
      table.insert(counts, {'minute', s.Cw, sum, resets})
      local left = available(key, s.Cw, sum + s.t, reserved_tokens)
      if not window[1] or left < window[2] then window = {s.Cw, left, resets} end
    end
    for _, b in ipairs(counts) do
      if b[2] and available(key, b[2], b[3] + s.t, reserved_tokens) < left_tokens then
        left_tokens, tokens_by = available(key, b[2], b[3] + s.t, reserved_tokens), {i - 9, 'tokens', b[1], b[2], b[4]}
      end
    end
    if not included[key] and s.Cc and s.Cc - s.c < 1 then
      return {'denied', i - 9, 'concurrent', '', text(s.Cc), '0', '0'}
    end
    if not included[key] and s.Cr then
      local sum, resets = ring_sum(key, 'q', now, s.Cra == 's')
      if s.Cr - sum < 1 then return {'denied', i - 9, 'requests', 'minute', text(s.Cr), '0', text(resets - now)} end
    end
  end
end

local function denied(by, left)
  local wait = by[5] > 0 and by[5] - now or 0
  return {'denied', by[1], by[2], by[3], text(by[4]), text(math.max(left, 0)), text(wait)}
end
local partial = min_nano >= 0
if left_nano < (partial and min_nano or nano) then return denied(nano_by, left_nano) end
if left_tokens < (partial and min_tokens or tokens) then return denied(tokens_by, left_tokens) end
nano, tokens = math.min(nano, left_nano), math.min(tokens, left_tokens)

local names = {}
for i = 10, #ARGV do
  local key, s = ARGV[i], states[i]
  local extra = included[key] and {n = 0, t = 0, c = 0} or {n = reserved_nano, t = reserved_tokens, c = 1}
  local amounts = {n = nano + extra.n, t = tokens + extra.t, c = extra.c}
  if s then add_to_fields(key, s, amounts) else add_all(key, amounts) end
  if not included[key] and s and s.Cr then ring_add(key, 'q', now, 1) end
  table.insert(names, key)
end
local all_nano, all_tokens = nano + reserved_nano, tokens + reserved_tokens
redis.call('HSET', P .. 'h:' .. id, 'p', process, 'n', text(all_nano), 't', text(all_tokens), 'o', step,
  's', cjson.encode(names), 'a', ARGV[9])
redis.call('SADD', P .. 'p:' .. process, id)
local result = {'granted', text(all_nano), text(all_tokens)}
if window[1] then
  for _, x in ipairs({window[1], math.max(0, window[2] - tokens), window[3] - now}) do
    table.insert(result, text(x))
  end
end
return result
