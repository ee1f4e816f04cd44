-- Ends claims. KEYS[1]: ledger. ARGV: attempt, delivery, entry ('' releases), recipients (from 1). Only the claim of
-- this run is ended. What ends as unknown is counted as ambiguous. Returns the recipients' entries as they are now, or
-- nil when a newer run has opened the ledger: what this run knew of the others may have changed.
local run = ARGV[1] .. ' ' .. ARGV[2]
local mine, ended, entries = 'claimed ' .. run, 0, {}
for i = 4, #ARGV do
  local entry = redis.call('HGET', KEYS[1], ARGV[i])
  if entry == mine or (not entry and ARGV[3] ~= '') then
    if ARGV[3] == '' then
      redis.call('HDEL', KEYS[1], ARGV[i])
    else
      redis.call('HSET', KEYS[1], ARGV[i], ARGV[3])
    end
    entry, ended = ARGV[3], ended + 1
  end
  entries[#entries + 1] = entry or ''
end
if ARGV[3] == 'unknown' and ended > 0 then
  redis.call('HINCRBY', KEYS[1], 'ambiguous', ended)
end
if redis.call('HGET', KEYS[1], 'run') ~= run then
  return nil
end
return entries
