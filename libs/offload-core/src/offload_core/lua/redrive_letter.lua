--- @include offload_core/lua/stages.lua
--- @include offload_core/lua/dead_letter.lua
--- @include celery_leases/scripts/redrive.lua
-- Brings a dead letter back: its message to the queue, its step and its task to PENDING, all in one script, so that
-- the gate lets it run again. Branches that were cancelled with it are published again.
-- Returns 'redriven', or why not: 'dead_letter.missing', 'dead_letter.unreported' (its task does not know of its death
-- yet), 'record.missing', 'task.ended' (cancelled, or done by another run). Events: task.redriven.
local function redrive_letter(prefix, broker, queue, message_key, celery_id)
  local task_id, n = step_of(prefix, celery_id)
  local key = record_key(prefix, task_id)
  local text, missing = dead_letter(broker, queue, message_key)
  if not text then
    return missing
  end
  local record = redis.call('HMGET', key, 'state', 'count', n .. ':state', 'kind', 'finished_at', 'idempotency_key',
    'redrives', n .. ':attempt', 'steps')
  if not record[1] then
    return 'record.missing'
  end
  if record[1] ~= 'FAILURE' or record[3] ~= 'FAILURE' then
    return 'task.ended'
  end
  local letter = cjson.decode(text)
  local redrives = record[7] and cjson.decode(record[7]) or {}
  redrives[#redrives + 1] = {
    at = now_ms(), step = n, reason = letter.reason, deliveries = letter.deliveries, worker = letter.owner,
    died_at = letter.died_at_ms}
  keep_record(prefix, task_id)
  set_state(prefix, task_id, 'PENDING', 'redrives', cjson.encode(redrives),
    n .. ':state', 'PENDING', n .. ':delivery', letter.deliveries, n .. ':first_attempt', record[8] or 0)
  redis.call('HDEL', key, 'finished_at', 'reason', 'cancel_requested', n .. ':error', n .. ':ended_at', n .. ':retry_at',
    n .. ':progress')
  local steps = cjson.decode(record[9])
  for other = 1, #steps do
    if other ~= n and redis.call('HGET', key, other .. ':state') == 'REVOKED' then
      redis.call('HDEL', key, other .. ':state', other .. ':error', other .. ':ended_at', other .. ':retry_at')
      if stage_of(steps, other) == stage_of(steps, n) then
        -- Whatever ran of it before is over: this is an attempt of its own, with all its retries.
        local last = redis.call('HGET', key, other .. ':attempt')
        local attempt = last and last + 1 or 0
        redis.call('HSET', key, other .. ':attempt', attempt, other .. ':first_attempt', attempt, other .. ':delivery', 0)
        publish_step(prefix, broker, task_id, steps, other, attempt, '')
      end
    end
  end
  if record[6] and redis.call('HEXISTS', key, 'idempotency_ttl_ms') == 0 then
    redis.call('PERSIST', record[6])
  end
  local figures = prefix .. 'figures:' .. string.format('%d', math.floor(tonumber(record[5]) / 86400000))
  if redis.call('EXISTS', figures) == 1 then
    redis.call('HINCRBY', figures, record[4] .. ':FAILURE', -1)
  end
  emit(prefix, task_id, 'task.redriven', {step = step_data(prefix, task_id, steps, n)})
  leases_redrive(broker, queue, message_key)
  return 'redriven'
end
