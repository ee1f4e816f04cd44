-- leases_publish(prefix, queue, message key, message, due_ms, priority)
-- Puts a message into its queue, or among the
-- delayed ones when due_ms (Redis's clock) lies ahead. The priority is 0, the highest, to 9.
-- Returns 1 when it waits, 2 when it is delayed, 0 when its message key is already live, delayed, dead or settled
-- (nothing changes): a step published again by a second run of the one before it must not give a poison three more
-- lives.
local function leases_publish(prefix, queue, message_key, message, due_ms, priority)
  local base = prefix .. queue
  if redis.call('HEXISTS', base .. ':delayed-messages', message_key) == 1
      or redis.call('ZSCORE', base .. ':settled', message_key)
      or redis.call('HEXISTS', base .. ':live', message_key) == 1
      or redis.call('HEXISTS', base .. ':dead', message_key) == 1 then
    return 0
  end
  local outcome = 1
  -- No pop looks for any other.
  priority = math.max(0, math.min(9, math.floor(tonumber(priority))))
  local is_first = redis.call('HLEN', base .. ':live') == 0
  if priority > 0 then
    redis.call('HSET', base .. ':priorities', message_key, priority)
  end
  local now = nil
  if tonumber(due_ms) > 0 then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  if now and tonumber(due_ms) > now then
    redis.call('HSET', base .. ':delayed-messages', message_key, message)
    redis.call('ZADD', base .. ':delayed', due_ms, message_key)
    is_first = true
    outcome = 2
  else
    redis.call('HSET', base .. ':live', message_key, message)
    local waiting = base .. ':waiting'
    if priority > 0 then
      waiting = waiting .. '.' .. priority
    end
    redis.call('LPUSH', waiting, message_key)
    -- The wake-up list only wakes idle workers; more entries than workers would cost memory and no more.
    if redis.call('LPUSH', base .. ':bell', 1) > 32 then
      redis.call('LTRIM', base .. ':bell', 0, 31)
    end
  end
  if is_first then
    -- The sweep takes a queue out of the registry only when nothing of it is left.
    redis.call('SADD', prefix .. 'queues', queue)
  end
  local expires = redis.call('GET', base .. ':expires')
  if expires then
    redis.call('PEXPIRE', base .. ':expires', expires)
  end
  return outcome
end
