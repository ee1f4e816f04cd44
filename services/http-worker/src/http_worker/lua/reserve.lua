-- Takes a turn at an endpoint: the generic cell rate algorithm, with one second's turns at once.
-- ARGV: key, ms between two turns, the longest wait (ms) that a turn is taken for.
-- Returns how long to wait, in ms; a wait longer than that takes no turn.
local time = redis.call('TIME')
local now, interval = time[1] * 1000 + time[2] / 1000, tonumber(ARGV[2])
local due = math.max(tonumber(redis.call('GET', ARGV[1]) or 0), now) + interval
local wait = math.max(due - now - math.max(interval, 1000), 0)
if wait <= tonumber(ARGV[3]) then
  redis.call('SET', ARGV[1], string.format('%.3f', due), 'PX', math.ceil(due - now))
end
return math.ceil(wait)
