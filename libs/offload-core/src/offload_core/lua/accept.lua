--- @include offload_core/lua/states.lua
--- @include celery_leases/scripts/publish.lua
--- @include celery_leases/scripts/depth.lua
-- Takes a task: idempotency key, record and first message, or nothing of it.
-- ARGV: prefix, broker prefix, task id, queue, message key, message, due_ms, idempotency key or '', fingerprint, limit
--       of waiting messages, or of delayed ones where due_ms is not 0 (0: none), 1 when Redis is nearly full, the
--       caller's rate key or '', ms between two tasks at its rate, how many may come at once, the list of the caller's
--       tasks that wait, how many these may be (0: any number), number of steps, the time (ms) until which it must be
--       started or 0, number of further first messages, of each its queue, message key and message, then the record's
--       fields.
-- Returns {'accepted'|'replayed'|'conflict'|'full'|'tenant'|'memory'|'rate', task id, or number waiting, or ms to wait,
-- and of 'full' the queue}. What was accepted before is answered before any limit is looked at. Events: task.accepted.
local prefix, broker, task_id, queue = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local idempotency_key, limit, expires_at, further = ARGV[8], tonumber(ARGV[10]), ARGV[18], tonumber(ARGV[19])

if idempotency_key ~= '' then
  local known = redis.call('HMGET', idempotency_key, 'fingerprint', 'task_id')
  if known[2] then
    if known[2] == task_id then
      return {'accepted', task_id}
    elseif known[1] == ARGV[9] then
      return {'replayed', known[2]}
    end
    return {'conflict', known[2]}
  end
end
-- The same id again: this script ran before, and its answer was lost.
if redis.call('EXISTS', record_key(prefix, task_id)) == 1 then
  return {'accepted', task_id}
end
if ARGV[11] == '1' then
  return {'memory', 0}
end
if limit > 0 then
  -- What is delayed has a limit of its own: it does not stand in anybody's way.
  for i = 17, 17 + 3 * further, 3 do
    local name = i == 17 and queue or ARGV[i]
    local waiting = tonumber(ARGV[7]) > 0 and leases_delayed(broker, name) or leases_waiting(broker, name)
    if waiting >= limit then
      return {'full', waiting, name}
    end
  end
end
if tonumber(ARGV[16]) > 0 then
  local waiting = redis.call('ZCARD', ARGV[15])
  if waiting >= tonumber(ARGV[16]) then
    return {'tenant', waiting}
  end
end
-- The generic cell rate algorithm: one time for each caller, at which all that it has posted would be due at its rate.
if ARGV[12] ~= '' then
  local now, interval = now_ms(), tonumber(ARGV[13])
  local due = math.max(tonumber(redis.call('GET', ARGV[12]) or 0), now) + interval
  local over = due - now - interval * tonumber(ARGV[14])
  if over > 0 then
    return {'rate', math.ceil(over)}
  end
  redis.call('SET', ARGV[12], string.format('%.3f', due), 'PX', math.ceil(due - now))
end
local fields = {}
for i = 20 + 3 * further, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
local messages = {{queue, ARGV[5], ARGV[6]}}
for i = 20, 17 + 3 * further, 3 do
  messages[#messages + 1] = {ARGV[i], ARGV[i + 1], ARGV[i + 2]}
end
put_task(prefix, broker, task_id, fields, ARGV[17], expires_at, messages, ARGV[7])
if idempotency_key ~= '' then
  redis.call('HSET', idempotency_key, 'fingerprint', ARGV[9], 'task_id', task_id)
  redis.call('HSET', record_key(prefix, task_id), 'idempotency_key', idempotency_key)
  local ttl_ms = redis.call('HGET', record_key(prefix, task_id), 'idempotency_ttl_ms')
  if ttl_ms then
    local starts_in = math.max(tonumber(ARGV[7]) - now_ms(), 0)
    redis.call('PEXPIRE', idempotency_key, string.format('%.0f', starts_in + ttl_ms))
  end
end
return {'accepted', task_id}
