--- @include offload_core/lua/cancel_task.lua
--- @include offload_core/lua/redrive_letter.lua
--- @include celery_leases/scripts/discard.lua
-- Does the next piece of a bulk operation, and counts it, in one: whatever dies, nothing is counted twice.
-- ARGV: the request as JSON: prefix, broker_prefix, bulk (its id), action ('cancel', 'redrive' or 'delete'), dry_run,
--       task_ids, place (where the operation goes on after these, as JSON text), keep_ms.
-- Returns 1 when it has been aborted, which does nothing; else 0. Events: those of what is done.
local request = cjson.decode(ARGV[1])
local prefix, broker = request.prefix, request.broker_prefix
local bulk = prefix .. 'bulk:' .. request.bulk
local DONE = {revoked = true, requested = true, redriven = true, deleted = true}

-- The dead letter of a task is that of its step that failed.
local function redrive_task(task_id)
  local key = record_key(prefix, task_id)
  local text = redis.call('HGET', key, 'steps')
  if not text then
    return 'record.missing'
  end
  for n, step in ipairs(cjson.decode(text)) do
    local found = redis.call('HMGET', key, n .. ':state', n .. ':attempt')
    if found[1] == 'FAILURE' then
      return redrive_letter(prefix, broker, step.queue, step.id .. ':' .. (found[2] or 0) .. ':0', step.id)
    end
  end
  return 'dead_letter.missing'
end

local function delete_task(task_id)
  local key = record_key(prefix, task_id)
  local record = redis.call('HMGET', key, 'state', 'steps', 'owner')
  if not record[1] then
    return 'record.missing'
  end
  if not TERMINAL[record[1]] then
    return 'task.not_finished'
  end
  for n, step in ipairs(cjson.decode(record[2])) do
    leases_discard(broker, step.queue, step.id .. ':' .. (redis.call('HGET', key, n .. ':attempt') or 0) .. ':0')
  end
  redis.call('ZREM', prefix .. 'forgetting', forgetting(prefix, task_id))
  for _, owner in ipairs({'', record[3]}) do
    redis.call('ZREM', list_key(prefix, owner, record[1]), task_id)
  end
  for _, own in ipairs(record_keys(prefix, task_id)) do
    redis.call('DEL', own)
  end
  redis.call('DEL', ended_key(prefix, task_id))
  return 'deleted'
end

if redis.call('HEXISTS', bulk, 'abort_requested') == 1 then
  return 1
end
for _, task_id in ipairs(request.task_ids) do
  local outcome = 'matched'
  if not request.dry_run then
    if request.action == 'cancel' then
      outcome = cancel_task(prefix, broker, task_id, request.keep_ms)
    elseif request.action == 'redrive' then
      outcome = redrive_task(task_id)
    else
      outcome = delete_task(task_id)
    end
  end
  redis.call('HINCRBY', bulk, 'matched', 1)
  if DONE[outcome] then
    redis.call('HINCRBY', bulk, 'done', 1)
  elseif outcome ~= 'matched' then
    redis.call('HINCRBY', bulk, 'skipped', 1)
    redis.call('HINCRBY', bulk, 'skipped:' .. outcome, 1)
  end
end
redis.call('HSET', bulk, 'place', request.place, 'state', 'running')
redis.call('ZADD', prefix .. 'bulks', string.format('%.0f', now_ms()), request.bulk)
return 0
