--- @include celery_leases/scripts/queue.lua
-- Takes the oldest message of the first queue that has one and may deliver it.
-- KEYS: the queues' bases in the order to try them.
-- ARGV: prefix, owner, lease_ms, poller, number of this pop, then for each queue 'lease' or 'take' (consumers that
--       never acknowledge settle by the pop).
-- Returns {index of the queue, message key, message, delivery, 1 if its task is revoked}; {} when there is more to look
-- at; nil when nothing waits.
local prefix, owner, lease_ms, poller, number = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local looked_at = 0

local function take(base, list)
  while looked_at < MOVES do
    local message_key = redis.call('RPOP', list)
    if not message_key then
      return nil
    end
    looked_at = looked_at + 1
    local message = redis.call('HGET', base .. ':live', message_key)
    -- A message key without a message was cancelled; one with an owner is a stale copy of a message that runs.
    if message and redis.call('HEXISTS', base .. ':owners', message_key) == 0 then
      return message_key, message
    end
  end
end

local function is_empty(base, last)
  for priority = 0, last do
    if redis.call('EXISTS', waiting_list(base, priority)) == 1 then
      return false
    end
  end
  return true
end

-- What is left of each queue's rate once a message is taken, where it has one.
local tokens = {}

-- Whether nothing of a queue may be delivered now: it is paused, runs as many messages as it may, or has used up its
-- rate. Of that as much as one second gives is saved while nothing is taken, and one message at least.
local function is_held(index, base)
  if redis.call('EXISTS', base .. ':pause') == 1 then
    return true
  end
  local found = redis.call('HMGET', base .. ':limits', 'max_running', 'rate_per_second', 'tokens', 'counted_at')
  if found[1] and redis.call('ZCARD', base .. ':leases') >= tonumber(found[1]) then
    return true
  end
  if found[2] then
    local rate, most = tonumber(found[2]), math.max(tonumber(found[2]), 1)
    local gained = math.max(now_ms() - tonumber(found[4] or 0), 0) * rate / 1000
    tokens[index] = math.min(tonumber(found[3] or 0) + gained, most) - 1
    return tokens[index] < 0
  end
  return false
end

-- Most queues have no priorities, and need be looked at once; most are neither paused nor limited.
local lasts, longest = {}, 0
for index, base in ipairs(KEYS) do
  lasts[index] = 0
  if redis.call('EXISTS', base .. ':priorities', base .. ':pause', base .. ':limits') > 0 then
    lasts[index] = is_held(index, base) and -1 or redis.call('EXISTS', base .. ':priorities') == 1 and 9 or 0
  end
  longest = math.max(longest, lasts[index])
end
for priority = 0, longest do
  for index, base in ipairs(KEYS) do
    local message_key, message
    if priority <= lasts[index] then
      message_key, message = take(base, waiting_list(base, priority))
    end
    if message_key then
      if is_empty(base, lasts[index]) then
        redis.call('DEL', base .. ':bell')
      end
      if tokens[index] then
        redis.call('HSET', base .. ':limits', 'tokens', tokens[index], 'counted_at', now_ms())
      end
      if ARGV[5 + index] == 'take' then
        redis.call('HDEL', base .. ':live', message_key)
        redis.call('HDEL', base .. ':priorities', message_key)
        return {index, message_key, message, 1, 0}
      end
      local h = read_history(base, message_key)
      local delivery = h.deliveries + 1
      -- Half a millisecond marks a delivery that its owner has not confirmed: this answer may still be lost.
      redis.call('ZADD', base .. ':leases', now_ms() + lease_ms + 0.5, message_key)
      redis.call('HSET', base .. ':owners', message_key, owner .. ' ' .. delivery)
      redis.call('HINCRBY', prefix .. 'held', owner, 1)
      redis.call('SET', prefix .. 'popped:' .. owner .. ':' .. poller, cjson.encode({number, base, message_key, delivery}),
        'PX', lease_ms * 10)
      local task_id = string.match(message_key, '^(.*):%d+:%d+$')
      local is_revoked = task_id and redis.call('ZSCORE', prefix .. 'revoked', task_id)
      return {index, message_key, message, delivery, is_revoked and 1 or 0}
    end
    if looked_at >= MOVES then
      return {}
    end
  end
end
return nil
