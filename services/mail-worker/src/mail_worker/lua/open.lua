-- Opens the ledger of one mail. KEYS[1]: ledger. ARGV: keep_ms, number of recipients.
-- Returns {date in ms of the first opening, then for each recipient its entry or ''}.
local time = redis.call('TIME')
redis.call('HSETNX', KEYS[1], 'date', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local result = {redis.call('HGET', KEYS[1], 'date')}
for i = 1, tonumber(ARGV[2]) do
  result[#result + 1] = redis.call('HGET', KEYS[1], tostring(i)) or ''
end
return result
