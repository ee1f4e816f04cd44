--- @include celery_leases/scripts/publish.lua
-- leases_reschedule(prefix, queue, message key, due_ms)
-- Makes a delayed message due at another time; when that is not ahead, it waits in its queue from now on. Returns what
-- `leases_publish` does, or 0 when the message is not delayed.
local function leases_reschedule(prefix, queue, message_key, due_ms)
  local base = prefix .. queue
  local message = redis.call('HGET', base .. ':delayed-messages', message_key)
  if not message then
    return 0
  end
  local priority = redis.call('HGET', base .. ':priorities', message_key) or 0
  redis.call('HDEL', base .. ':delayed-messages', message_key)
  redis.call('ZREM', base .. ':delayed', message_key)
  return leases_publish(prefix, queue, message_key, message, due_ms, priority)
end
