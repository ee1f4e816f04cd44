-- What the scripts that move messages share. KEYS and ARGV are theirs.

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A tag's history: how often it was delivered, how many of those it alone can be blamed for, how many ended together
-- with others of the same owner, and since when (ms) no worker has known its task.
local function read_history(base, tag)
  local text = redis.call('HGET', base .. ':history', tag)
  if not text then
    return {deliveries = 0, own = 0, shared = 0, unknown_since = 0}
  end
  local a, b, c, d = string.match(text, '^(%d+) (%d+) (%d+) (%d+)$')
  return {deliveries = tonumber(a), own = tonumber(b), shared = tonumber(c), unknown_since = tonumber(d)}
end

local function write_history(base, tag, h)
  redis.call('HSET', base .. ':history', tag,
    string.format('%d %d %d %.0f', h.deliveries, h.own, h.shared, h.unknown_since))
end

local function drop_lease(base, tag)
  redis.call('ZREM', base .. ':leases', tag)
  redis.call('HDEL', base .. ':owners', tag)
end

local function ring(base)
  if redis.call('LPUSH', base .. ':bell', 1) > 32 then
    redis.call('LTRIM', base .. ':bell', 0, 31)
  end
end

local function waiting_list(base, tag)
  local priority = redis.call('HGET', base .. ':priorities', tag)
  if priority then
    return base .. ':waiting.' .. priority
  end
  return base .. ':waiting'
end

-- Back to the head: a task that was taken before must not wait behind a long backlog again.
local function requeue(base, tag)
  redis.call('RPUSH', waiting_list(base, tag), tag)
  ring(base)
end

local function postpone(base, tag, due_ms)
  local message = redis.call('HGET', base .. ':live', tag)
  redis.call('HDEL', base .. ':live', tag)
  redis.call('HSET', base .. ':delayed-messages', tag, message)
  redis.call('ZADD', base .. ':delayed', due_ms, tag)
end

-- A dead letter is born unreported: whoever sweeps reports it until the handler has returned.
local function bury(base, tag, reason, owner, h, now)
  local message = redis.call('HGET', base .. ':live', tag) or ''
  redis.call('HDEL', base .. ':live', tag)
  redis.call('HDEL', base .. ':history', tag)
  redis.call('HDEL', base .. ':priorities', tag)
  local earlier = redis.call('HGET', base .. ':deaths', tag)
  redis.call('HDEL', base .. ':deaths', tag)
  redis.call('HSET', base .. ':dead', tag, cjson.encode({
    message = message, reason = reason, deliveries = h.deliveries, owner = owner, died_at_ms = now,
    earlier = earlier and cjson.decode(earlier) or nil}))
  redis.call('ZADD', base .. ':dead-at', now, tag)
  redis.call('ZADD', base .. ':unreported', now, tag)
end
