-- leases_pause(prefix, queue, note, until_ms), leases_resume(prefix, queue)
-- Nothing of a paused queue is delivered until it is resumed, or until a time (ms, Redis's clock; 0: none). What runs
-- goes on, and what is published waits. Paused again, it has the newer note and end.
-- Return 1 when that made a difference: the queue was not paused before, or it was.
local function leases_pause(prefix, queue, note, until_ms)
  local key = prefix .. queue .. ':pause'
  local time = redis.call('TIME')
  local is_new = redis.call('HSETNX', key, 'since_ms', time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('HSET', key, 'note', note, 'until_ms', string.format('%.0f', until_ms))
  if tonumber(until_ms) > 0 then
    redis.call('PEXPIREAT', key, string.format('%.0f', until_ms))
  else
    redis.call('PERSIST', key)
  end
  return is_new
end

local function leases_resume(prefix, queue)
  local base = prefix .. queue
  local was_paused = math.min(redis.call('HDEL', base .. ':pause', 'since_ms', 'note', 'until_ms'), 1)
  -- As many idle workers as the wake-up list can wake; the others look within a second.
  for _ = 1, was_paused * 32 do
    redis.call('LPUSH', base .. ':bell', 1)
  end
  redis.call('LTRIM', base .. ':bell', 0, 31)
  return was_paused
end
