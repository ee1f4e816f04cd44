--- @include offload_core/lua/records.lua
--- @include celery_leases/scripts/publish.lua
-- Batches: tasks that are counted together, and what follows when all of them have ended. `states.lua` tells them of
-- every change of a task.
-- Fields of a batch: owner created_at expected start ('now' or 'sealed') follow_ups (JSON) have (items that are known)
-- rejected SUCCESS FAILURE REVOKED (tasks in that state) sealed_at outcome ('incomplete' or 'cancelled', where it is not
-- to be 'completed') completed_at action ('release' or 'cancel') place (the index at which that goes on) first_failure
-- (task id) is_whole (1: it comes in one request, or not at all), and of each follow-up that was published its task id, by
-- its name.
-- Its items are a hash of their own: index to the fingerprint, and behind it the state of a task that has ended, or ! and
-- the problem of an item that was rejected.

-- Of `states.lua`.
local create_record, put_task, publish_webhooks, emit_to

local FINGERPRINT_LENGTH = 16 -- offload_core.batches.FINGERPRINT_LENGTH
-- A batch can be looked at for so long after its end: a week.
local KEEP_BATCH_MS = 604800000
-- As many events are kept of a batch, roughly.
local BATCH_EVENTS = 10000
local REJECTED = '!' -- offload_core.batches.REJECTED
local COUNTED = {SUCCESS = true, FAILURE = true, REVOKED = true}

local function batch_key(prefix, batch)
  return prefix .. 'batch:' .. batch
end

local function items_key(prefix, batch)
  return prefix .. 'batch-items:' .. batch
end

local function batch_events_key(prefix, batch)
  return prefix .. 'events:' .. batch
end

-- The batches that are not left to themselves, by when (ms) they are looked at next.
local function attended_key(prefix)
  return prefix .. 'batches'
end

local function item_id(batch, index)
  return batch .. '-' .. string.format('%d', index)
end

-- Counts a task that has gone from one state to another; `before` is nil for a new one.
local function count_in_batch(prefix, batch, before, state)
  local key = batch_key(prefix, batch)
  if redis.call('EXISTS', key) == 0 then
    return
  end
  if COUNTED[before] then
    redis.call('HINCRBY', key, before, -1)
  end
  if COUNTED[state] then
    redis.call('HINCRBY', key, state, 1)
  end
end

local function batch_counts(prefix, batch)
  local found = redis.call('HMGET', batch_key(prefix, batch), 'SUCCESS', 'FAILURE', 'REVOKED', 'rejected', 'have')
  for i = 1, #found do
    found[i] = tonumber(found[i] or 0)
  end
  return {
    succeeded = found[1], failed = found[2], cancelled = found[3], rejected = found[4],
    open = found[5] - found[1] - found[2] - found[3] - found[4],
  }
end

-- Publishes what follows: once, because whoever calls it has just written down that it does. Its message says of which
-- batch (`summary`, JSON), and its times count from now.
local function publish_follow_up(prefix, batch, name, summary)
  local key = batch_key(prefix, batch)
  local one = cjson.decode(redis.call('HGET', key, 'follow_ups') or '{}')[name]
  if not one then
    return
  end
  local now, fields = now_ms(), one.fields
  local due = one.delay_ms > 0 and now + one.delay_ms or one.run_at
  due = due > now and due or 0
  if due > 0 then
    fields[#fields + 1], fields[#fields + 2] = 'due_at', string.format('%.0f', due)
  end
  local expires_at = one.expires_in_ms > 0 and math.max(due, now) + one.expires_in_ms or 0
  if expires_at > 0 then
    fields[#fields + 1], fields[#fields + 2] = 'expires_at', string.format('%.0f', expires_at)
  end
  for _, message in ipairs(one.messages) do
    local text = message[3]:gsub('"headers": {', function() return '"headers": {"batch": ' .. summary .. ', ' end, 1)
    message[3] = text:gsub('"published_at": [%d.]+', '"published_at": ' .. string.format('%.3f', now / 1000), 1)
  end
  put_task(prefix, prefix .. 'queue:', one.task_id, fields, one.count, expires_at, one.messages, due)
  redis.call('HSET', key, name, one.task_id)
end

-- Ends a batch that has all its items, when none of them is open any more.
local function complete_batch(prefix, batch)
  local key = batch_key(prefix, batch)
  local found = redis.call('HMGET', key, 'sealed_at', 'completed_at', 'owner', 'outcome')
  if not found[1] or found[2] then
    return
  end
  local counts = batch_counts(prefix, batch)
  if counts.open > 0 then
    return
  end
  local state = found[4] or 'completed'
  redis.call('HSET', key, 'completed_at', string.format('%.0f', now_ms()))
  redis.call('ZREM', attended_key(prefix), batch)
  local text = cjson.encode({batch_id = batch, state = state, counts = counts})
  publish_follow_up(prefix, batch, 'on_complete', text)
  if state == 'completed' and counts.failed + counts.cancelled + counts.rejected == 0 then
    publish_follow_up(prefix, batch, 'on_success', text)
  end
  local event = 'batch.completed'
  local entry = append_event(batch_events_key(prefix, batch), BATCH_EVENTS, event, text)
  emit_to(prefix, found[3], '', event, text)
  publish_webhooks(prefix, {source = batch, owner = found[3], entry = entry, type = event, data = text})
  for _, one in ipairs({key, items_key(prefix, batch), batch_events_key(prefix, batch)}) do
    redis.call('PEXPIRE', one, KEEP_BATCH_MS)
  end
end

-- What the end of one of its tasks, or its return from the dead letters, means for a batch: `text` is the event's data.
local function tell_batch(prefix, batch, task_id, state, event, text)
  local key, items = batch_key(prefix, batch), items_key(prefix, batch)
  local index = string.match(task_id, '%-(%d+)$')
  local item = redis.call('HGET', items, index)
  -- A task that is redriven may outlive its batch.
  if not item or redis.call('EXISTS', key) == 0 then
    return
  end
  redis.call('HSET', items, index, string.sub(item, 1, FINGERPRINT_LENGTH) .. (COUNTED[state] and state or ''))
  append_event(batch_events_key(prefix, batch), BATCH_EVENTS, event, text)
  if event == 'task.failed' and redis.call('HSETNX', key, 'first_failure', task_id) == 1 then
    publish_follow_up(prefix, batch, 'on_first_failure', cjson.encode({
      batch_id = batch, state = 'running', counts = batch_counts(prefix, batch), failed_task_id = task_id}))
  end
  complete_batch(prefix, batch)
end
