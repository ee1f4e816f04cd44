-- leases_limit(prefix, queue, limits)
-- Limits what is delivered of a queue. `limits` is a table: `max_running`, how many messages run at once, and
-- `rate_per_second`, how many deliveries begin in the long run; each a number, or false for none. One that is left out
-- stays as it is.
local function leases_limit(prefix, queue, limits)
  local base = prefix .. queue
  for _, name in ipairs({'max_running', 'rate_per_second'}) do
    if limits[name] then
      redis.call('HSET', base .. ':limits', name, limits[name])
    elseif limits[name] == false then
      redis.call('HDEL', base .. ':limits', name)
    end
  end
  if redis.call('HEXISTS', base .. ':limits', 'rate_per_second') == 0 then
    redis.call('HDEL', base .. ':limits', 'tokens', 'counted_at')
  end
  redis.call('LPUSH', base .. ':bell', 1)
  redis.call('LTRIM', base .. ':bell', 0, 31)
end
