-- Claims recipients before DATA, all or none. KEYS[1]: ledger. ARGV: attempt, delivery, recipients (from 1). An entry
-- is 'claimed ATTEMPT DELIVERY', 'sent', 'refused CODE' or 'unknown'. Returns 'claimed', 'again' (a claim whose outcome
-- was lost is taken over, and counted), or 'newer' (another run has opened the ledger since, or has sent the mail).
local mine = ARGV[1] .. ' ' .. ARGV[2]
if redis.call('HGET', KEYS[1], 'run') ~= mine then
  return 'newer'
end
local lost = 0
for i = 3, #ARGV do
  local entry = redis.call('HGET', KEYS[1], ARGV[i])
  if entry and not string.find(entry, '^claimed ') then
    return 'newer'
  end
  if entry then
    lost = lost + 1
  end
end
if lost > 0 then
  redis.call('HINCRBY', KEYS[1], 'ambiguous', lost)
end
for i = 3, #ARGV do
  redis.call('HSET', KEYS[1], ARGV[i], 'claimed ' .. mine)
end
return lost > 0 and 'again' or 'claimed'
