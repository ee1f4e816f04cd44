--- @include offload_core/lua/cancel_task.lua
--- @include celery_leases/scripts/reschedule.lua
-- Goes on with one batch that is due: closes it when its items did not come in time, lets the tasks of a sealed one
-- begin, or cancels them; a few at a time. It goes on where the last piece has ended, whoever did that.
-- ARGV: the request as JSON: prefix, broker_prefix, keep_ms, limit (of tasks in a piece), batch (null: the
--       first that is due).
-- Returns 1, or 0 when no batch is due. Events: those of the tasks' ends, and batch.completed.
local request = cjson.decode(ARGV[1])
local prefix, broker = request.prefix, request.broker_prefix
-- As many items that are not there are passed over as take about as long as one that is.
local PASSED_OVER = 20

local function release(task_id)
  local record = redis.call('HMGET', record_key(prefix, task_id), 'state', 'steps', 'due_at')
  if not record[1] or TERMINAL[record[1]] then
    return
  end
  for _, step in ipairs(cjson.decode(record[2])) do
    if (step.stage or 1) == 1 then
      leases_reschedule(broker, step.queue, step.id .. ':0:0', tonumber(record[3] or 0))
    end
  end
end

local now = now_ms()
local batch = request.batch
if batch == cjson.null then
  batch = redis.call('ZRANGEBYSCORE', attended_key(prefix), 0, now, 'LIMIT', 0, 1)[1]
elseif tonumber(redis.call('ZSCORE', attended_key(prefix), batch) or now + 1) > now then
  batch = nil
end
if not batch then
  return 0
end
local key, items = batch_key(prefix, batch), items_key(prefix, batch)
local found = redis.call('HMGET', key, 'expected', 'start', 'action', 'place', 'sealed_at', 'is_whole',
  'have')
if not found[1] or (found[6] and found[7] == '0') then
  redis.call('UNLINK', key)
  redis.call('ZREM', attended_key(prefix), batch)
  return 1
end
local expected, action, place = tonumber(found[1]), found[3], tonumber(found[4] or 0)
if not action and not found[5] then
  redis.call('HSET', key, 'sealed_at', string.format('%.0f', now), 'outcome', 'incomplete')
  if found[6] then
    -- Its client knows of nothing.
    redis.call('HDEL', key, 'follow_ups')
  end
  if found[2] == 'sealed' then
    -- What waited for all of the items does not begin without them.
    action = 'cancel'
    redis.call('HSET', key, 'action', action)
  end
end
local cost = 0
while action and place < expected and cost < request.limit do
  if redis.call('HEXISTS', items, string.format('%d', place)) == 1 then
    local task_id = item_id(batch, place)
    if action == 'cancel' then
      cancel_task(prefix, broker, task_id, request.keep_ms)
    else
      release(task_id)
    end
    cost = cost + 1
  else
    cost = cost + 1 / PASSED_OVER
  end
  place = place + 1
end
if action and place < expected then
  redis.call('HSET', key, 'place', place)
else
  redis.call('HDEL', key, 'action', 'place')
  redis.call('ZREM', attended_key(prefix), batch)
end
complete_batch(prefix, batch)
return 1
