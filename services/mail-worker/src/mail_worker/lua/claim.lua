-- Claims recipients before DATA. KEYS[1]: ledger. ARGV: attempt, delivery, policy, recipients (from 1).
-- An entry is 'claimed ATTEMPT DELIVERY', 'sent' or 'refused CODE'. Returns 'claimed', 'again' (a lost outcome came before), 'sent', 'newer' or 'unknown'.
local mine = {tonumber(ARGV[1]), tonumber(ARGV[2])}
local unknown = false
for i = 4, #ARGV do
  local entry = redis.call('HGET', KEYS[1], ARGV[i])
  if entry == 'sent' then
    return 'sent'
  end
  local attempt, delivery = string.match(entry or '', '^claimed (%d+) (%d+)$')
  if attempt then
    attempt, delivery = tonumber(attempt), tonumber(delivery)
    if attempt > mine[1] or (attempt == mine[1] and delivery > mine[2]) then
      return 'newer'
    end
    unknown = true
  end
end
if unknown then
  redis.call('HINCRBY', KEYS[1], 'ambiguous', 1)
  if ARGV[3] == 'at-most-once' then
    return 'unknown'
  end
end
for i = 4, #ARGV do
  redis.call('HSET', KEYS[1], ARGV[i], 'claimed ' .. ARGV[1] .. ' ' .. ARGV[2])
end
return unknown and 'again' or 'claimed'
