-- leases_redrive(prefix, queue, tag)
-- Puts a dead letter back to the tail of its queue, with no deliveries counted. Needs leases_publish before it.
-- Returns 1 when it did, 0 when there is no such dead letter.
local function leases_redrive(prefix, queue, tag)
  local base = prefix .. queue
  local letter = redis.call('HGET', base .. ':dead', tag)
  if not letter then
    return 0
  end
  redis.call('HDEL', base .. ':dead', tag)
  redis.call('ZREM', base .. ':dead-at', tag)
  redis.call('ZREM', base .. ':unreported', tag)
  redis.call('ZREM', base .. ':settled', tag)
  redis.call('HDEL', base .. ':history', tag)
  leases_publish(prefix, queue, tag, cjson.decode(letter)['message'], 0, 0)
  return 1
end
