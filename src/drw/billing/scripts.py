"""The scripts that Valkey runs: each is one atomic step of the protocol in docs/concepts/metering.md.

Keys, all with one hash tag:
  drw:{meter}:epoch            there while the counters are whole; gone with a loss of the data
  drw:{meter}:changes          counts the leases that begin while there is no epoch
  drw:{meter}:leases           sorted set: process -> when its lease ends, in ms
  drw:{meter}:p:PROCESS        set: the reservations of a process
  drw:{meter}:h:ID             hash: one reservation
  drw:{meter}:s:SUBJECT        hash: one subject's counters and caps
  drw:{meter}:capped           set: the subjects that have caps
  drw:{meter}:caps             the version of the caps
  drw:{meter}:settled:ID       a reservation that is settled: whoever did not hear of it asks again
  drw:{meter}:posted:ID        a row of the ledger that stood there as not posted, already counted

Fields of a subject: n, t, c (nano-dollars and tokens reserved, calls under way); d, dn, dt (day, spent in it);
m, mn, mt (month); tn, tt (all time); Cdn ... Ctt (caps of these), Cw and Cwa (tokens a minute and its algorithm),
Cc (calls at once), Cr and Cra (requests a minute). Tokens and requests of the last minute lie in rings of 5 s buckets.
"""

from __future__ import annotations

PRELUDE = """
local P = 'drw:{meter}:'
local BUCKET, RING = 5000, 13
local EXACT = 2 ^ 53
-- How long it is known that something was counted: until the ledger says so too, for those that may have read it
-- before, and for a process that asks again at its next sign of life.
local KNOWN, READ_BEFORE, ASKED_AGAIN = 604800, 600, 120

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

-- Counters, and of the caps only that of the tokens of a minute, which are counted where it is there.
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

-- Adds to fields that were read, in one write; a sum that a double cannot hold is left to Valkey's integers.
local function put(key, s, more)
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

-- The sum, and when the oldest part of it no longer counts.
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

-- A moment that the caller says was: never later than now, or another day's counters would take the place of today's.
local function moment(at, now) return math.min(tonumber(at), now) end

-- Counts what was spent at a moment: for a day or month that is over it counts no more. `more` is added too.
local function charge(key, nano, tokens, at, more)
  local s = read_spent(key, at)
  local day = math.floor(at / 86400000)
  if day == s.d then more.dn, more.dt = nano, tokens end
  if month_of(day) == s.m then more.mn, more.mt = nano, tokens end
  more.tn, more.tt = nano, tokens
  put(key, s, more)
  if s.Cw and tokens > 0 then ring_add(key, 'r', at, text(tokens)) end
end

local function open() return redis.call('EXISTS', P .. 'epoch') == 1 end

local function leased(process, now)
  local until_ms = redis.call('ZSCORE', P .. 'leases', process)
  return until_ms and tonumber(until_ms) > now
end

-- Takes a reservation away; what it held in which subjects, or nothing where there is none.
local function take(id)
  local h = redis.call('HMGET', P .. 'h:' .. id, 'n', 't', 's', 'p')
  if not h[3] then return nil end
  redis.call('DEL', P .. 'h:' .. id)
  redis.call('SREM', P .. 'p:' .. h[4], id)
  return cjson.decode(h[3]), {n = -tonumber(h[1]), t = -tonumber(h[2]), c = -1}
end

local function add_all(key, amounts)
  for field, amount in pairs(amounts) do add(key, field, amount) end
end
"""

RESERVE = (
    PRELUDE
    + """
-- now, process, id, step, nano, tokens, least nano, least tokens (-1: all or nothing), attempts, subjects...
local now, process, id, step = clock(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local nano, tokens = tonumber(ARGV[5]), tonumber(ARGV[6])
local least_nano, least_tokens = tonumber(ARGV[7]), tonumber(ARGV[8])
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
local partial = least_nano >= 0
if left_nano < (partial and least_nano or nano) then return refused(nano_by, left_nano) end
if left_tokens < (partial and least_tokens or tokens) then return refused(tokens_by, left_tokens) end
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
"""
)
"""Reserves for all subjects or for none; a step that was taken before is answered as it was then.

A later step may bring a subject more, which then holds all that the others do.
"""

ADVANCE = (
    PRELUDE
    + """
-- now, process, id, attempts
if not leased(ARGV[2], clock(ARGV[1])) then return 0 end
if redis.call('EXISTS', P .. 'h:' .. ARGV[3]) == 0 then return 0 end
redis.call('HSET', P .. 'h:' .. ARGV[3], 'a', ARGV[4])
return 1
"""
)
"""Writes down how far an answer may have gone before it goes there: 0, the reservation is not held any more."""

SETTLE = (
    PRELUDE
    + """
-- now, process (none: for a process that died), id, at, number of rows that stand as not posted, these, then for each
-- charge: subject, nano, tokens
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
"""
)
"""Moves what was used from reserved to spent and releases the rest.

While the counters are closed it stays reserved: whether its row is in what they are rebuilt from is known once they
are open. Once the lease is over only those who settle for the dead do, so that both never settle the same.
"""

RENEW = (
    PRELUDE
    + """
-- now, ttl, process
local now = clock(ARGV[1])
if not leased(ARGV[3], now) then return 0 end
redis.call('ZADD', P .. 'leases', text(now + tonumber(ARGV[2])), ARGV[3])
return 1
"""
)

REGISTER = (
    PRELUDE
    + """
-- now, ttl, process, then for each reservation: id, nano, tokens, step, subjects, attempts
local now = clock(ARGV[1])
local process = ARGV[3]
if #ARGV > 3 and open() then return 0 end
redis.call('ZADD', P .. 'leases', text(now + tonumber(ARGV[2])), process)
for i = 4, #ARGV, 6 do
  local key = P .. 'h:' .. ARGV[i]
  if redis.call('EXISTS', key) == 0 then
    redis.call('HSET', key, 'p', process, 'n', ARGV[i + 1], 't', ARGV[i + 2], 'o', ARGV[i + 3], 's', ARGV[i + 4],
      'a', ARGV[i + 5])
    redis.call('SADD', P .. 'p:' .. process, ARGV[i])
    for _, s in ipairs(cjson.decode(ARGV[i + 4])) do
      add(s, 'n', tonumber(ARGV[i + 1]))
      add(s, 't', tonumber(ARGV[i + 2]))
      add(s, 'c', 1)
    end
  end
end
if not open() then redis.call('INCR', P .. 'changes') end
return 1
"""
)
"""Begins a lease. A process brings its reservations along only while the counters are being rebuilt."""

END = (
    PRELUDE
    + """
-- process: ends the lease of one that is dead, so that what it holds is settled as of any whose lease is over
return redis.call('ZADD', P .. 'leases', 'XX', 'CH', 0, ARGV[1])
"""
)

LEAVE = (
    PRELUDE
    + """
-- process: ends a lease that holds nothing
if redis.call('SCARD', P .. 'p:' .. ARGV[1]) > 0 then return 0 end
redis.call('ZREM', P .. 'leases', ARGV[1])
return 1
"""
)

EXPIRED = (
    PRELUDE
    + """
-- now, grace: of processes whose lease ended longer than so many ms ago the reservations, and those that have none
local ended = redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', text(clock(ARGV[1]) - tonumber(ARGV[2])))
local found, none = {}, {}
for _, process in ipairs(ended) do
  for _, id in ipairs(redis.call('SMEMBERS', P .. 'p:' .. process)) do
    local h = redis.call('HMGET', P .. 'h:' .. id, 'n', 't', 'a')
    table.insert(found, {process, id, h[1], h[2], h[3]})
  end
  if redis.call('SCARD', P .. 'p:' .. process) == 0 then table.insert(none, process) end
end
return {found, none}
"""
)

SURVEY = (
    PRELUDE
    + """
-- What a rebuild starts from: how many leases began, which processes there are, which reservations.
local answer = {tostring(redis.call('GET', P .. 'changes') or '0'), {}, {}}
for _, process in ipairs(redis.call('ZRANGE', P .. 'leases', 0, -1)) do
  table.insert(answer[2], process)
  for _, id in ipairs(redis.call('SMEMBERS', P .. 'p:' .. process)) do table.insert(answer[3], id) end
end
return answer
"""
)

LOAD = (
    PRELUDE
    + """
-- subject, number of fields, fields and values...: sets counters, and leaves what is reserved alone
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
"""
)

OPEN = (
    PRELUDE
    + """
-- epoch, changes, number of settled reservations, these, rows that are counted in what was loaded...
if tostring(redis.call('GET', P .. 'changes') or '0') ~= ARGV[2] then return 0 end
if open() then return 0 end
local last = 3 + tonumber(ARGV[3])
for i = 4, last do
  local names, held = take(ARGV[i])
  for _, key in ipairs(names or {}) do add_all(key, held) end
  redis.call('SET', P .. 'settled:' .. ARGV[i], 1, 'EX', KNOWN)
end
for i = last + 1, #ARGV do redis.call('SET', P .. 'posted:' .. ARGV[i], 1, 'EX', KNOWN) end
redis.call('SET', P .. 'epoch', ARGV[1])
return 1
"""
)
"""Ends a rebuild, unless a process has brought reservations since the survey."""

CAPS = (
    PRELUDE
    + """
-- version, then for each cap: subject, field, value
if tonumber(redis.call('GET', P .. 'caps') or '-1') > tonumber(ARGV[1]) then return 0 end
local CAPS = {'Cdn', 'Cmn', 'Ctn', 'Cdt', 'Cmt', 'Ctt', 'Cw', 'Cc', 'Cr', 'Cwa', 'Cra'}
for _, key in ipairs(redis.call('SMEMBERS', P .. 'capped')) do redis.call('HDEL', key, unpack(CAPS)) end
redis.call('DEL', P .. 'capped')
for i = 2, #ARGV, 3 do
  redis.call('HSET', ARGV[i], ARGV[i + 1], ARGV[i + 2])
  redis.call('SADD', P .. 'capped', ARGV[i])
end
redis.call('SET', P .. 'caps', ARGV[1])
return 1
"""
)
"""Puts all caps in place of those that were; older ones never replace newer ones."""

POST = (
    PRELUDE
    + """
-- now, when the rows were read in the ledger, then for each: id, at, number of charges, these: subject, nano, tokens
local now = clock(ARGV[1])
if not open() then return -1 end
if now - tonumber(ARGV[2]) > READ_BEFORE * 500 then return -2 end
local counted, sums, order, i = 0, {}, {}, 3
while i <= #ARGV do
  local at, last = moment(ARGV[i + 1], now), i + 2 + 3 * tonumber(ARGV[i + 2])
  if redis.call('SET', P .. 'posted:' .. ARGV[i], 1, 'NX', 'EX', KNOWN) then
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
"""
)
"""Counts rows of the ledger that had no reservation, each once: none read so long ago that it may be forgotten.

What subjects spent within one bucket of time is counted as one.
"""

POSTED = (
    PRELUDE
    + """
-- rows that the ledger, too, says are counted: only those who read it before may still post them
for i = 1, #ARGV do redis.call('EXPIRE', P .. 'posted:' .. ARGV[i], READ_BEFORE) end
"""
)

PEEK = (
    PRELUDE
    + """
-- now, subjects...: counters and caps of each, with the tokens and requests of the minute
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
"""
)

TOKENS = (
    PRELUDE
    + """
-- now, subject, tokens of the day, of the month, of all time: what was used before tokens had a budget
if not open() then return 0 end
local s = read(ARGV[2], clock(ARGV[1]))
redis.call('HSET', ARGV[2], 'd', s.d, 'dn', text(s.dn), 'dt', ARGV[3], 'm', s.m, 'mn', text(s.mn), 'mt', ARGV[4],
  'tt', ARGV[5])
return 1
"""
)
