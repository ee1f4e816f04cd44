-- leases_discard(prefix, queue, tag)
-- Deletes a dead letter. Returns 1 when it did, 0 when there is no such dead letter.
local function leases_discard(prefix, queue, tag)
  local base = prefix .. queue
  redis.call('ZREM', base .. ':dead-at', tag)
  redis.call('ZREM', base .. ':unreported', tag)
  return redis.call('HDEL', base .. ':dead', tag)
end
