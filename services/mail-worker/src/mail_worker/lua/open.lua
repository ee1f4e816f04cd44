-- Opens the ledger of one mail for a run. KEYS[1]: ledger. ARGV: keep_ms, attempt, delivery, policy, number of
-- recipients. From now on no older run can claim. What an older run has claimed and not closed is unknown: with
-- at-most-once that is the end of it. Returns {date in ms of the first opening, how many became unknown, then for each
-- recipient its entry or ''}; nil when a newer run has opened it.
local mine = {tonumber(ARGV[2]), tonumber(ARGV[3])}
local run = redis.call('HGET', KEYS[1], 'run')
if run then
  local attempt, delivery = string.match(run, '^(%d+) (%d+)$')
  attempt, delivery = tonumber(attempt), tonumber(delivery)
  if attempt > mine[1] or (attempt == mine[1] and delivery > mine[2]) then
    return nil
  end
end
local time = redis.call('TIME')
redis.call('HSETNX', KEYS[1], 'date', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
redis.call('HSET', KEYS[1], 'run', ARGV[2] .. ' ' .. ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local result, lost = {redis.call('HGET', KEYS[1], 'date'), 0}, 0
for i = 1, tonumber(ARGV[5]) do
  local entry = redis.call('HGET', KEYS[1], tostring(i)) or ''
  if ARGV[4] == 'at-most-once' and string.find(entry, '^claimed ') and entry ~= 'claimed ' .. ARGV[2] .. ' ' .. ARGV[3] then
    entry, lost = 'unknown', lost + 1
    redis.call('HSET', KEYS[1], tostring(i), entry)
    redis.call('HINCRBY', KEYS[1], 'ambiguous', 1)
  end
  result[#result + 1] = entry
end
result[2] = lost
return result
