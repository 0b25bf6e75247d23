-- Prepended to each script. Each script is one atomic step of the protocol in docs/concepts/metering.md.
--
-- Keys, all with one hash tag:
--   drw:{meter}:epoch            exists while the counters are complete; lost with the data
--   drw:{meter}:changes          number of leases that began without an epoch
--   drw:{meter}:leases           sorted set: process -> end of its lease, in ms
--   drw:{meter}:p:PROCESS        set: the reservations of a process
--   drw:{meter}:h:ID             hash: one reservation
--   drw:{meter}:s:SUBJECT        hash: one subject's counters and caps
--   drw:{meter}:capped           set: the subjects that have caps
--   drw:{meter}:caps             the version of the caps
--   drw:{meter}:settled:ID       mark of a settled reservation, for clients that retry without a response
--   drw:{meter}:posted:ID        mark of a counted ledger row, which the ledger may not have marked as posted yet
--
-- Fields of a subject: n, t, c (nano-dollars and tokens reserved, concurrent calls); d, dn, dt (day, spent in it);
-- m, mn, mt (month); tn, tt (all time); Cdn ... Ctt (caps of these), Cw and Cwa (tokens a minute and its algorithm),
-- Cc (concurrent calls), Cr and Cra (requests a minute). Tokens and requests of the last minute: ring of 5 s buckets.

local P = 'drw:{meter}:'
local BUCKET, RING = 5000, 13
local EXACT = 2 ^ 53
-- Lifetime of the marks of counted reservations and rows: until the ledger has marked the row, afterwards for readers
-- that read the row before, and for a process that retries at its next heartbeat.
local MARK_SECONDS, POSTED_MARK_SECONDS, RETRY_MARK_SECONDS = 604800, 600, 120

local function text(x) return string.format('%.0f', x) end

local function clock(given)
  if given ~= '' then return tonumber(given) end
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
local function month_of(day)
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local m = mp < 10 and mp + 3 or mp - 9
  local y = yoe + era * 400
  if m <= 2 then y = y + 1 end
  return y * 12 + m - 1
end

local function cap(value) return value and tonumber(value) or nil end

local function counters(v, now)
  local s = {
    n = tonumber(v[1] or 0), t = tonumber(v[2] or 0), c = tonumber(v[3] or 0),
    d = tonumber(v[4] or 0), dn = tonumber(v[5] or 0), dt = tonumber(v[6] or 0),
    m = tonumber(v[7] or 0), mn = tonumber(v[8] or 0), mt = tonumber(v[9] or 0),
    tn = tonumber(v[10] or 0), tt = tonumber(v[11] or 0), Cw = cap(v[12]),
  }
  local day = math.floor(now / 86400000)
  local month = month_of(day)
  s.rolled = day > s.d or month > s.m
  if day > s.d then s.d, s.dn, s.dt = day, 0, 0 end
  if month > s.m then s.m, s.mn, s.mt = month, 0, 0 end
  return s
end

-- Counters with the cap of tokens per minute only, because these tokens are counted only with a cap.
local function read_spent(key, now)
  return counters(redis.call('HMGET', key, 'n', 't', 'c', 'd', 'dn', 'dt', 'm', 'mn', 'mt', 'tn', 'tt', 'Cw'), now)
end

local function read(key, now)
  local v = redis.call('HMGET', key, 'n', 't', 'c', 'd', 'dn', 'dt', 'm', 'mn', 'mt', 'tn', 'tt', 'Cw',
    'Cdn', 'Cmn', 'Ctn', 'Cdt', 'Cmt', 'Ctt', 'Cc', 'Cr', 'Cwa', 'Cra')
  local s = counters(v, now)
  s.Cdn, s.Cmn, s.Ctn = cap(v[13]), cap(v[14]), cap(v[15])
  s.Cdt, s.Cmt, s.Ctt = cap(v[16]), cap(v[17]), cap(v[18])
  s.Cc, s.Cr, s.Cwa, s.Cra = cap(v[19]), cap(v[20]), v[21] or nil, v[22] or nil
  return s
end

-- Adds amounts to fields that were read, in one write; sums beyond the precision of a double use HINCRBY.
local function add_to_fields(key, s, more)
  local flat, large = {}, {}
  if s.rolled then
    flat = {'d', s.d, 'dn', text(s.dn), 'dt', text(s.dt), 'm', s.m, 'mn', text(s.mn), 'mt', text(s.mt)}
  end
  for field, amount in pairs(more) do
    local sum = s[field] + amount
    if s[field] >= EXACT or sum >= EXACT then
      large[field] = amount
    elseif amount ~= 0 then
      table.insert(flat, field)
      table.insert(flat, text(sum))
    end
  end
  if #flat > 0 then redis.call('HSET', key, unpack(flat)) end
  for field, amount in pairs(large) do redis.call('HINCRBY', key, field, text(amount)) end
end

local function ring(key, name)
  local fields = {name .. 'k'}
  for i = 0, RING - 1 do table.insert(fields, name .. i) end
  return redis.call('HMGET', key, unpack(fields))
end

-- Returns the sum, and when its oldest bucket expires.
local function ring_sum(key, name, now, sliding)
  local v = ring(key, name)
  local k = tonumber(v[1] or 0)
  local i = math.max(math.floor(now / BUCKET), k)
  local first = sliding and i - RING + 1 or i - i % 12
  local sum, oldest = 0, nil
  for j = first, i do
    if j <= k and j > k - RING then
      local part = tonumber(v[2 + j % RING] or 0)
      if part > 0 and not oldest then oldest = j end
      sum = sum + part
    end
  end
  if sliding then return sum, ((oldest or i) + RING) * BUCKET end
  return sum, (i - i % 12 + 12) * BUCKET
end

local function ring_add(key, name, now, amount)
  local i = math.floor(now / BUCKET)
  local k = tonumber(redis.call('HGET', key, name .. 'k') or i - RING)
  i = math.max(i, k)
  if i > k then
    local flat = {name .. 'k', i}
    for j = math.max(k + 1, i - RING + 1), i do
      table.insert(flat, name .. j % RING)
      table.insert(flat, 0)
    end
    redis.call('HSET', key, unpack(flat))
  end
  redis.call('HINCRBY', key, name .. i % RING, amount)
end

local function add(key, field, amount)
  if amount ~= 0 then redis.call('HINCRBY', key, field, text(amount)) end
end

-- Limits a time given by the caller to now, because a later day would reset the counters of today.
local function not_after(at, now) return math.min(tonumber(at), now) end

-- Counts spending at a time, except for a day or month that is over. Adds the fields in `more` too.
local function charge(key, nano, tokens, at, more)
  local s = read_spent(key, at)
  local day = math.floor(at / 86400000)
  if day == s.d then more.dn, more.dt = nano, tokens end
  if month_of(day) == s.m then more.mn, more.mt = nano, tokens end
  more.tn, more.tt = nano, tokens
  add_to_fields(key, s, more)
  if s.Cw and tokens > 0 then ring_add(key, 'r', at, text(tokens)) end
end

local function open() return redis.call('EXISTS', P .. 'epoch') == 1 end

local function has_lease(process, now)
  local until_ms = redis.call('ZSCORE', P .. 'leases', process)
  return until_ms and tonumber(until_ms) > now
end

-- Removes a reservation; returns its subjects and its negated amounts, or nil if it does not exist.
local function remove_reservation(id)
  local h = redis.call('HMGET', P .. 'h:' .. id, 'n', 't', 's', 'p')
  if not h[3] then return nil end
  redis.call('DEL', P .. 'h:' .. id)
  redis.call('SREM', P .. 'p:' .. h[4], id)
  return cjson.decode(h[3]), {n = -tonumber(h[1]), t = -tonumber(h[2]), c = -1}
end

local function add_all(key, amounts)
  for field, amount in pairs(amounts) do add(key, field, amount) end
end
