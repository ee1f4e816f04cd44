-- leases_discard(prefix, queue, message key)
-- Deletes a dead letter. Returns 1 when it did, 0 when there is no such dead letter.
local function leases_discard(prefix, queue, message_key)
  local base = prefix .. queue
  redis.call('ZREM', base .. ':dead-at', message_key)
  redis.call('ZREM', base .. ':unreported', message_key)
  return redis.call('HDEL', base .. ':dead', message_key)
end
