-- leases_withdraw(prefix, queue, tag)
-- Takes a message away that waits or is delayed. Returns 1 when it did, 0 when the message runs or is not there.
-- The tag stays in the list of those that wait: a pop skips tags that have no message.
local function leases_withdraw(prefix, queue, tag)
  local base = prefix .. queue
  if redis.call('HEXISTS', base .. ':owners', tag) == 1 then
    return 0
  end
  local removed = redis.call('HDEL', base .. ':live', tag) + redis.call('HDEL', base .. ':delayed-messages', tag)
  if removed > 0 then
    redis.call('ZREM', base .. ':delayed', tag)
    redis.call('HDEL', base .. ':history', tag)
    redis.call('HDEL', base .. ':deaths', tag)
    redis.call('HDEL', base .. ':priorities', tag)
    return 1
  end
  return 0
end
