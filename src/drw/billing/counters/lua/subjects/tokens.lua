-- Sets the tokens that a subject used before it had a budget of tokens.
-- Arguments: now, subject, tokens of the day, of the month, of all time
if not open() then return 0 end
local s = read(ARGV[2], clock(ARGV[1]))
redis.call('HSET', ARGV[2], 'd', s.d, 'dn', text(s.dn), 'dt', ARGV[3], 'm', s.m, 'mn', text(s.mn), 'mt', ARGV[4],
  'tt', ARGV[5])
return 1
