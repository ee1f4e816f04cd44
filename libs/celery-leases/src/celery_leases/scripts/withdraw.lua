-- leases_withdraw(prefix, queue, message key)
-- Takes a message away that waits or is delayed. Returns 1 when it did, 0 when the message runs or is not there.
-- The message key stays in the list of those that wait: a pop skips message keys that have no message.
local function leases_withdraw(prefix, queue, message_key)
  local base = prefix .. queue
  if redis.call('HEXISTS', base .. ':owners', message_key) == 1 then
    return 0
  end
  local removed = redis.call('HDEL', base .. ':live', message_key) + redis.call('HDEL', base .. ':delayed-messages', message_key)
  if removed > 0 then
    redis.call('ZREM', base .. ':delayed', message_key)
    redis.call('HDEL', base .. ':history', message_key)
    redis.call('HDEL', base .. ':deaths', message_key)
    redis.call('HDEL', base .. ':priorities', message_key)
    return 1
  end
  return 0
end
