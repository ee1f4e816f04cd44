-- What the scripts that move messages share. KEYS and ARGV are theirs.

-- Most messages that one script moves or looks at: a few milliseconds of Redis's time.
local MOVES = 200

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- At `maxmemory` Redis refuses what may need memory, unless the script has written before. What ends or renews a lease,
-- or moves a message, must go on then: it needs next to nothing, and it is what makes room.
local function go_on_when_full(prefix)
  redis.call('UNLINK', prefix .. 'nothing')
end

-- A message key's history: how often it was delivered, how many of those it alone can be blamed for, how many ended
-- together with others of the same owner, and since when (ms) no worker has known its task.
local function read_history(base, message_key)
  local text = redis.call('HGET', base .. ':history', message_key)
  if not text then
    return {deliveries = 0, own = 0, shared = 0, unknown_since = 0}
  end
  local a, b, c, d = string.match(text, '^(%d+) (%d+) (%d+) (%d+)$')
  return {deliveries = tonumber(a), own = tonumber(b), shared = tonumber(c), unknown_since = tonumber(d)}
end

local function write_history(base, message_key, h)
  redis.call('HSET', base .. ':history', message_key,
    string.format('%d %d %d %.0f', h.deliveries, h.own, h.shared, h.unknown_since))
end

-- Returns the owner and the delivery of a running message, or nil.
local function owner_of(base, message_key)
  local owner, delivery = string.match(redis.call('HGET', base .. ':owners', message_key) or '', '^(.*) (%d+)$')
  return owner, tonumber(delivery)
end

local function wake_up(base)
  if redis.call('LPUSH', base .. ':bell', 1) > 32 then
    redis.call('LTRIM', base .. ':bell', 0, 31)
  end
end

-- `held` counts the leases of each owner. A queue that was at its limit may deliver another message.
local function drop_lease(prefix, base, message_key, owner)
  redis.call('ZREM', base .. ':leases', message_key)
  redis.call('HDEL', base .. ':owners', message_key)
  if redis.call('HINCRBY', prefix .. 'held', owner, -1) < 1 then
    redis.call('HDEL', prefix .. 'held', owner)
  end
  if redis.call('EXISTS', base .. ':limits') == 1 then
    wake_up(base)
  end
end

-- The list of the messages of a priority: 0, the highest, to 9.
local function waiting_list(base, priority)
  if priority > 0 then
    return base .. ':waiting.' .. priority
  end
  return base .. ':waiting'
end

local function priority_of(base, message_key)
  return tonumber(redis.call('HGET', base .. ':priorities', message_key) or 0)
end

-- Back to the head: a task that was taken before must not wait behind a long backlog again.
local function requeue(base, message_key)
  redis.call('RPUSH', waiting_list(base, priority_of(base, message_key)), message_key)
  wake_up(base)
end

local function postpone(base, message_key, due_ms)
  local message = redis.call('HGET', base .. ':live', message_key)
  redis.call('HDEL', base .. ':live', message_key)
  redis.call('HSET', base .. ':delayed-messages', message_key, message)
  redis.call('ZADD', base .. ':delayed', due_ms, message_key)
end

-- A dead letter is born unreported: whoever reports dead letters does so until the handler has returned.
local function bury(base, message_key, reason, owner, h, now)
  local message = redis.call('HGET', base .. ':live', message_key) or ''
  local earlier = redis.call('HGET', base .. ':deaths', message_key)
  redis.call('HSET', base .. ':dead', message_key, cjson.encode({
    message = message, reason = reason, deliveries = h.deliveries, owner = owner, died_at_ms = now,
    priority = priority_of(base, message_key), earlier = earlier and cjson.decode(earlier) or nil}))
  redis.call('ZADD', base .. ':dead-at', now, message_key)
  redis.call('ZADD', base .. ':unreported', now, message_key)
  for _, part in ipairs({'live', 'history', 'priorities', 'deaths'}) do
    redis.call('HDEL', base .. ':' .. part, message_key)
  end
end
