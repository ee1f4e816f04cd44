--- @include celery_leases/scripts/queue.lua
-- Removes messages that wait or are delayed, of every priority; what runs stays. ARGV: prefix, queue.
-- Returns {removed, 1 when there is more to do}.
local base = ARGV[1] .. ARGV[2]
local looked_at, removed = 0, 0

local function remove(message_key, part)
  if redis.call('HEXISTS', base .. ':owners', message_key) == 0 then
    removed = removed + redis.call('HDEL', base .. ':' .. part, message_key)
    for _, other in ipairs({'priorities', 'history', 'deaths'}) do
      redis.call('HDEL', base .. ':' .. other, message_key)
    end
  end
end

for priority = 0, 9 do
  while looked_at < MOVES do
    local message_key = redis.call('RPOP', waiting_list(base, priority))
    if not message_key then
      break
    end
    looked_at = looked_at + 1
    remove(message_key, 'live')
  end
end
if looked_at < MOVES then
  for _, message_key in ipairs(redis.call('ZRANGE', base .. ':delayed', 0, MOVES - looked_at - 1)) do
    looked_at = looked_at + 1
    redis.call('ZREM', base .. ':delayed', message_key)
    remove(message_key, 'delayed-messages')
  end
end
return {removed, looked_at < MOVES and 0 or 1}
