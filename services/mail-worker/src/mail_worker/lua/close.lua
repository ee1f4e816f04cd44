-- Ends claims. KEYS[1]: ledger. ARGV: attempt, delivery, entry ('' releases), recipients (from 1).
-- Only the claim of this run is ended; returns how many were. What ends as unknown is counted as ambiguous.
local mine, ended = 'claimed ' .. ARGV[1] .. ' ' .. ARGV[2], 0
for i = 4, #ARGV do
  local entry = redis.call('HGET', KEYS[1], ARGV[i])
  if entry == mine or (not entry and ARGV[3] ~= '') then
    if ARGV[3] == '' then
      redis.call('HDEL', KEYS[1], ARGV[i])
    else
      redis.call('HSET', KEYS[1], ARGV[i], ARGV[3])
    end
    ended = ended + 1
  end
end
if ARGV[3] == 'unknown' and ended > 0 then
  redis.call('HINCRBY', KEYS[1], 'ambiguous', ended)
end
return ended
