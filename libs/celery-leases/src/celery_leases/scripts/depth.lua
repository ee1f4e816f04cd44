-- leases_waiting(prefix, queue), leases_delayed(prefix, queue)
-- Return how many messages wait in a queue, of all
-- priorities, and how many are not due yet. A message that was withdrawn is neither.
local function leases_waiting(prefix, queue)
  local base = prefix .. queue
  return math.max(redis.call('HLEN', base .. ':live') - redis.call('ZCARD', base .. ':leases'), 0)
end

local function leases_delayed(prefix, queue)
  return redis.call('ZCARD', prefix .. queue .. ':delayed')
end
