-- Moves due messages to their queues, gives expired leases back or buries them, and returns dead letters to report.
-- ARGV: prefix, delivery limit, shared delivery limit, lease_ms, tombstone_ms, retention_ms, most of each kind,
--       1 when dead letters are to be reported.
-- Returns {due, reclaimed, buried, {queue, tag, dead letter, ...}}.
local prefix, limit, shared_limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local lease_ms, tombstone_ms, retention_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local most, report = tonumber(ARGV[7]), ARGV[8] == '1'
local now = now_ms()
local queues = redis.call('SMEMBERS', prefix .. 'queues')
local due, reclaimed, buried, letters = 0, 0, 0, {}

-- An owner that loses several leases died as a whole, and none of its messages can be blamed. Its leases do not end in
-- the same millisecond, so the finding is remembered until the last of them has ended.
local function died_as_a_whole(owner)
  local mark = prefix .. 'lost-owner:' .. owner
  if redis.call('EXISTS', mark) == 1 then
    return true
  end
  local held = 0
  for _, queue in ipairs(queues) do
    for _, value in ipairs(redis.call('HVALS', prefix .. queue .. ':owners')) do
      if string.match(value, '^(.*) %d+$') == owner then
        held = held + 1
      end
    end
  end
  if held > 1 then
    redis.call('SET', mark, held, 'PX', lease_ms * 3)
    return true
  end
  return false
end

-- Messages that died together with others twice or more may have a poison among them. They come back one by one within
-- four seconds, each at a time of its own that changes with every delivery: an innocent meets the poison again by chance
-- alone.
local function apart_ms(tag, deliveries)
  return tonumber(string.sub(redis.sha1hex(tag .. ' ' .. deliveries), 1, 8), 16) % 4000
end

for _, queue in ipairs(queues) do
  local base = prefix .. queue

  local ready = redis.call('ZRANGEBYSCORE', base .. ':delayed', '-inf', now, 'LIMIT', 0, most)
  for _, tag in ipairs(ready) do
    redis.call('ZREM', base .. ':delayed', tag)
    local message = redis.call('HGET', base .. ':delayed-messages', tag)
    redis.call('HDEL', base .. ':delayed-messages', tag)
    if message and redis.call('HSETNX', base .. ':live', tag, message) == 1 then
      if redis.call('HEXISTS', base .. ':history', tag) == 1 then
        -- It was delivered before, and must not wait behind a long backlog again.
        requeue(base, tag)
      else
        redis.call('LPUSH', waiting_list(base, tag), tag)
        ring(base)
      end
      due = due + 1
    end
  end

  local expired = redis.call('ZRANGEBYSCORE', base .. ':leases', '-inf', now, 'LIMIT', 0, most)
  -- The newest first, so that the oldest of them ends at the head.
  for i = #expired, 1, -1 do
    local tag = expired[i]
    local owner = string.match(redis.call('HGET', base .. ':owners', tag) or '', '^(.*) %d+$') or ''
    local h = read_history(base, tag)
    h.deliveries = h.deliveries + 1
    if died_as_a_whole(owner) then
      h.shared = h.shared + 1
    else
      h.own = h.own + 1
    end
    drop_lease(base, tag)
    if h.own >= limit or h.shared >= shared_limit then
      bury(base, tag, 'delivery.limit', owner, h, now)
      buried = buried + 1
    elseif redis.call('HEXISTS', base .. ':live', tag) == 1 then
      write_history(base, tag, h)
      if h.shared > 1 then
        postpone(base, tag, now + apart_ms(tag, h.deliveries))
      else
        requeue(base, tag)
      end
      reclaimed = reclaimed + 1
    end
  end

  if report then
    local waiting = redis.call('ZRANGEBYSCORE', base .. ':unreported', '-inf', now, 'LIMIT', 0, 20)
    for _, tag in ipairs(waiting) do
      -- The next sweeper tries again only when this one had the time of a lease for it.
      redis.call('ZADD', base .. ':unreported', now + lease_ms, tag)
      local letter = redis.call('HGET', base .. ':dead', tag)
      if letter then
        letters[#letters + 1] = queue
        letters[#letters + 1] = tag
        letters[#letters + 1] = letter
      else
        redis.call('ZREM', base .. ':unreported', tag)
      end
    end
  end

  if tombstone_ms > 0 then
    redis.call('ZREMRANGEBYSCORE', base .. ':settled', '-inf', now - tombstone_ms)
  end
  for _, tag in ipairs(redis.call('ZRANGEBYSCORE', base .. ':dead-at', '-inf', now - retention_ms, 'LIMIT', 0, most)) do
    redis.call('ZREM', base .. ':dead-at', tag)
    redis.call('ZREM', base .. ':unreported', tag)
    redis.call('HDEL', base .. ':dead', tag)
  end
end
return {due, reclaimed, buried, letters}
