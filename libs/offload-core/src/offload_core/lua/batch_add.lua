--- @include offload_core/lua/states.lua
--- @include celery_leases/scripts/depth.lua
-- Adds items to a batch, in their order, up to the first that is refused for a reason that passes. With the last one
-- that it expects it is sealed.
-- ARGV: prefix, broker prefix, batch, limit of waiting messages of a queue, of delayed ones (0: none), 1 when Redis is
--       nearly full, the caller's rate key or '', ms between two tasks at its rate, how many may come at once, the list of
--       the caller's tasks that wait, how many these may be (0: any number), number of items; of each: index, fingerprint, the problem for which it is rejected (JSON) or ''; and of one that is not:
--       due_ms, number of steps, the time (ms) until which it must be started or 0, number of messages, of each its
--       queue, message key and text, number of the record's fields (names and values), and these.
-- A negative limit: nothing is refused for a reason that passes.
-- Returns {why it stopped ('', 'missing', 'sealed', 'full', 'tenant', 'memory', 'rate'), number waiting or ms to wait, queue, items
-- that the batch has, 1 when it is sealed, of each item 'accepted', 'known', 'conflict' or its problem}.
-- Events: task.accepted of each.
local prefix, broker, batch = ARGV[1], ARGV[2], ARGV[3]
local waiting_limit, delayed_limit = tonumber(ARGV[4]), tonumber(ARGV[5])
local may_refuse = waiting_limit >= 0
local rate_key, interval, burst = ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
-- Until its batch is sealed a task is due in another century.
local HELD = '4102444800000'

local key, items = batch_key(prefix, batch), items_key(prefix, batch)
local found = redis.call('HMGET', key, 'expected', 'sealed_at', 'start', 'have', 'is_whole')
if not found[1] then
  return {'missing', 0, '', 0, 0}
end
local expected, have = tonumber(found[1]), tonumber(found[4])
local is_sealed, is_held, is_whole = found[2] and true, found[3] == 'sealed', found[5] == '1'
local now, next_due, looked_at = now_ms(), nil, {}
local at = 12
local function take()
  at = at + 1
  return ARGV[at]
end

-- Why nothing new may be accepted into these queues; nil when it may.
local function refusal_of(messages, due_ms)
  if ARGV[6] == '1' then
    return 'memory', 0, ''
  end
  -- What is held for a moment only, until the last piece is there, is to be run now.
  local is_delayed = (is_held and not is_whole) or tonumber(due_ms) > now
  local limit = is_delayed and delayed_limit or waiting_limit
  for _, message in ipairs(messages) do
    local queue = message[1]
    if limit > 0 and not looked_at[queue] then
      local waiting = is_delayed and leases_delayed(broker, queue) or leases_waiting(broker, queue)
      if waiting >= limit then
        return 'full', waiting, queue
      end
    end
    looked_at[queue] = true
  end
  local tenant_limit = tonumber(ARGV[11])
  if tenant_limit > 0 and redis.call('ZCARD', ARGV[10]) >= tenant_limit then
    return 'tenant', redis.call('ZCARD', ARGV[10]), ''
  end
  -- As one post has it, but that what may begin may also go on to the end of these few items.
  if rate_key ~= '' and not next_due then
    local over = tonumber(redis.call('GET', rate_key) or 0) + interval - now - interval * burst
    if over > 0 then
      return 'rate', math.ceil(over), ''
    end
  end
end

local given = {}
for i = 1, tonumber(ARGV[12]) do
  local index, fingerprint, problem = take(), take(), take()
  local item = {index = index, fingerprint = fingerprint, problem = problem, messages = {}, fields = {}}
  if item.problem == '' then
    item.due_ms, item.steps, item.expires_at = take(), take(), take()
    for m = 1, tonumber(take()) do
      item.messages[m] = {take(), take(), take()}
    end
    for f = 1, tonumber(take()) do
      item.fields[f] = take()
    end
  end
  given[i] = item
end
if is_whole and may_refuse and have == 0 then
  -- All of it is taken, or nothing.
  for _, item in ipairs(given) do
    if item.problem == '' then
      local refused, number, where = refusal_of(item.messages, item.due_ms)
      if refused then
        return {refused, number, where, 0, 0}
      end
    end
  end
  may_refuse = false
end

local outcomes, why, subject, queue = {}, '', 0, ''
for i, item in ipairs(given) do
  local index, fingerprint, problem = item.index, item.fingerprint, item.problem
  local known = redis.call('HGET', items, index)
  if known then
    if string.sub(known, 1, FINGERPRINT_LENGTH) ~= fingerprint then
      outcomes[i] = 'conflict'
    elseif string.sub(known, FINGERPRINT_LENGTH + 1, FINGERPRINT_LENGTH + 1) == REJECTED then
      outcomes[i] = string.sub(known, FINGERPRINT_LENGTH + 2)
    else
      outcomes[i] = 'known'
    end
  elseif is_sealed or tonumber(index) >= expected then
    why = 'sealed'
    break
  elseif problem ~= '' then
    redis.call('HSET', items, index, fingerprint .. REJECTED .. problem)
    redis.call('HINCRBY', key, 'rejected', 1)
    have = redis.call('HINCRBY', key, 'have', 1)
    outcomes[i] = problem
  else
    if may_refuse then
      local refused, number, where = refusal_of(item.messages, item.due_ms)
      if refused then
        why, subject, queue = refused, number, where
        break
      end
    end
    if rate_key ~= '' then
      next_due = (next_due or math.max(tonumber(redis.call('GET', rate_key) or 0), now)) + interval
    end
    redis.call('HSET', items, index, fingerprint)
    have = redis.call('HINCRBY', key, 'have', 1)
    local task_id = item_id(batch, index)
    local due_ms = is_held and HELD or item.due_ms
    put_task(prefix, broker, task_id, item.fields, item.steps, item.expires_at, item.messages, due_ms)
    outcomes[i] = 'accepted'
  end
  if not is_sealed and have == expected then
    is_sealed = true
    redis.call('HSET', key, 'sealed_at', string.format('%.0f', now))
    if is_held then
      redis.call('HSET', key, 'action', 'release', 'place', 0)
      redis.call('ZADD', attended_key(prefix), string.format('%.0f', now), batch)
    else
      redis.call('ZREM', attended_key(prefix), batch)
    end
    complete_batch(prefix, batch)
  end
end
if next_due then
  redis.call('SET', rate_key, string.format('%.3f', next_due), 'PX', math.max(math.ceil(next_due - now), 1))
end
return {why, subject, queue, have, is_sealed and 1 or 0, unpack(outcomes)}
