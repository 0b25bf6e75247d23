-- rows that the ledger, too, says are counted: only those who read it before may still post them
for i = 1, #ARGV do redis.call('EXPIRE', P .. 'posted:' .. ARGV[i], READ_BEFORE) end
