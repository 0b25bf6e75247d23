-- Replaces all caps. Older caps never replace newer ones.
-- Arguments: version, then for each cap: subject, field, value
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
