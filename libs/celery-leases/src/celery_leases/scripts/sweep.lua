--- @include celery_leases/scripts/queue.lua
--- @include celery_leases/scripts/clock.lua
-- Moves due messages to their queues, gives expired leases back or buries them, and removes what has had its time.
-- ARGV: prefix, delivery limit, shared delivery limit, lease_ms, interval_ms, tombstone_ms, retention_ms, queues...
-- Returns {queues done (from the first on), due, reclaimed, buried, {queues with dead letters to report},
-- {queue, error, ...}, ms for which no lease is given back yet}.
local prefix, limit, shared_limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local lease_ms, interval_ms = tonumber(ARGV[4]), tonumber(ARGV[5])
local tombstone_ms, retention_ms = tonumber(ARGV[6]), tonumber(ARGV[7])
local now = now_ms()
local left = MOVES
local due, reclaimed, buried, unreported, unswept = 0, 0, 0, {}, {}
go_on_when_full(prefix)

local longest_ms, rests_ms = note_sweep(prefix, now, lease_ms, interval_ms)

-- An owner that loses several leases died as a whole, and none of its messages can be blamed. Its leases do not end in
-- the same millisecond, so the finding is remembered until the last of them has ended.
local function died_as_a_whole(owner)
  local mark = prefix .. 'lost-owner:' .. owner
  if redis.call('EXISTS', mark) == 1 then
    return true
  end
  local held = tonumber(redis.call('HGET', prefix .. 'held', owner) or 0)
  if held > 1 then
    redis.call('SET', mark, held, 'PX', longest_ms * 3)
  end
  return held > 1
end

-- Messages that died together with others twice or more may have a poison among them. They come back one by one within
-- four seconds, each at a time of its own that changes with every delivery: an innocent meets the poison again by
-- chance alone.
local function apart_ms(message_key, deliveries)
  return tonumber(string.sub(redis.sha1hex(message_key .. ' ' .. deliveries), 1, 8), 16) % 4000
end

-- A key of the wrong type is found before anything is moved.
local function check_types(base)
  local types = {
    live = 'hash', owners = 'hash', history = 'hash', priorities = 'hash', ['delayed-messages'] = 'hash', dead = 'hash',
    deaths = 'hash', leases = 'zset', delayed = 'zset', ['dead-at'] = 'zset', unreported = 'zset', waiting = 'list',
    bell = 'list'}
  for priority = 1, 9 do
    types['waiting.' .. priority] = 'list'
  end
  for part, expected in pairs(types) do
    local found = redis.call('TYPE', base .. ':' .. part).ok
    if found ~= 'none' and found ~= expected then
      error({err = base .. ':' .. part .. ' is a ' .. found .. ', not a ' .. expected})
    end
  end
end

local function join(base, message_key)
  redis.call('ZREM', base .. ':delayed', message_key)
  local message = redis.call('HGET', base .. ':delayed-messages', message_key)
  redis.call('HDEL', base .. ':delayed-messages', message_key)
  if message and redis.call('HSETNX', base .. ':live', message_key, message) == 1 then
    if redis.call('HEXISTS', base .. ':history', message_key) == 1 then
      -- It was delivered before, and must not wait behind a long backlog again.
      requeue(base, message_key)
    else
      redis.call('LPUSH', waiting_list(base, priority_of(base, message_key)), message_key)
      wake_up(base)
    end
    due = due + 1
  end
end

local function reclaim(base, message_key, is_confirmed)
  local owner = owner_of(base, message_key) or ''
  local h = read_history(base, message_key)
  h.deliveries = h.deliveries + 1
  -- Of a delivery that was never confirmed it is not known whether it began.
  if not is_confirmed or died_as_a_whole(owner) then
    h.shared = h.shared + 1
  else
    h.own = h.own + 1
  end
  drop_lease(prefix, base, message_key, owner)
  if h.own >= limit or h.shared >= shared_limit then
    bury(base, message_key, 'delivery.limit', owner, h, now)
    buried = buried + 1
  elseif redis.call('HEXISTS', base .. ':live', message_key) == 1 then
    write_history(base, message_key, h)
    if h.shared > 1 then
      postpone(base, message_key, now + apart_ms(message_key, h.deliveries))
    else
      requeue(base, message_key)
    end
    reclaimed = reclaimed + 1
  end
end

-- What lives, does not run and waits in no list is what a purge left that ended half-way.
local function find_orphans(base)
  if redis.call('EXISTS', base .. ':leases') == 1 or redis.call('EXISTS', base .. ':live') == 0 then
    return
  end
  for priority = 0, 9 do
    if redis.call('EXISTS', waiting_list(base, priority)) == 1 then
      return
    end
  end
  local found = redis.call('HSCAN', base .. ':live', 0, 'COUNT', MOVES)[2]
  for i = 1, #found, 2 do
    redis.call('LPUSH', waiting_list(base, priority_of(base, found[i])), found[i])
    left = left - 1
  end
  wake_up(base)
end

local function of(base, part, latest, most)
  return redis.call('ZRANGEBYSCORE', base .. ':' .. part, '-inf', latest, 'LIMIT', 0, most)
end

local function sweep(queue)
  local base = prefix .. queue
  local ready = of(base, 'delayed', now, left)
  local expired = {}
  if rests_ms == 0 and #ready < left then
    expired = redis.call('ZRANGEBYSCORE', base .. ':leases', '-inf', now, 'WITHSCORES', 'LIMIT', 0, left - #ready)
  end
  left = left - #ready - #expired / 2
  if #ready + #expired > 0 then
    check_types(base)
  end
  for _, message_key in ipairs(ready) do
    join(base, message_key)
  end
  -- The newest first, so that the oldest of them ends at the head.
  for i = #expired - 1, 1, -2 do
    reclaim(base, expired[i], not string.find(expired[i + 1], '%.5$'))
  end
  for part, latest in pairs({leases = now + longest_ms + 1000, unreported = now + 86400000}) do
    for _, message_key in ipairs(redis.call('ZRANGEBYSCORE', base .. ':' .. part, '(' .. latest, '+inf', 'LIMIT', 0, left)) do
      redis.call('ZADD', base .. ':' .. part, now + longest_ms, message_key)
      left = left - 1
    end
  end
  if tombstone_ms > 0 then
    local old = of(base, 'settled', now - tombstone_ms, left * 5)
    if #old > 0 then
      redis.call('ZREM', base .. ':settled', unpack(old))
    end
    left = left - math.floor(#old / 5)
  end
  for _, message_key in ipairs(of(base, 'dead-at', now - retention_ms, left)) do
    redis.call('ZREM', base .. ':dead-at', message_key)
    redis.call('ZREM', base .. ':unreported', message_key)
    redis.call('HDEL', base .. ':dead', message_key)
    left = left - 1
  end
  find_orphans(base)
  if #of(base, 'unreported', now, 1) > 0 then
    unreported[#unreported + 1] = queue
  end
  if redis.call('EXISTS', base .. ':live', base .. ':delayed', base .. ':dead', base .. ':settled') == 0 then
    redis.call('SREM', prefix .. 'queues', queue)
    -- Keys of cancelled messages, and wake-ups for nobody.
    for priority = 0, 9 do
      redis.call('UNLINK', waiting_list(base, priority))
    end
    redis.call('UNLINK', base .. ':bell')
  end
end

local done = 0
for i = 8, #ARGV do
  local is_swept, failure = pcall(sweep, ARGV[i])
  if not is_swept then
    unswept[#unswept + 1] = ARGV[i]
    unswept[#unswept + 1] = type(failure) == 'table' and failure.err or tostring(failure)
  elseif left <= 0 then
    break
  end
  done = done + 1
end
return {done, due, reclaimed, buried, unreported, unswept, rests_ms}
