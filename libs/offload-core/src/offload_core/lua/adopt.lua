--- @include offload_core/lua/states.lua
--- @include celery_leases/scripts/publish.lua
-- Publishes a message of an adopted Celery application. Where no record has its step yet, one is written with it. A later
-- step of a chain says that the one before has succeeded, so that this one is not run again if its worker dies now.
-- ARGV: prefix, broker prefix, Celery id, root id, queue, message key, message, due_ms, priority, the first argument as a
--       result, the steps that are known as JSON, then the record's further fields.
-- Returns what `leases_publish` does. Events: task.accepted of a new record, step.succeeded of the step before.
local prefix, id, root_id = ARGV[1], ARGV[3], ARGV[4]
local task_id, n = step_of(prefix, id)
if redis.call('EXISTS', step_key(prefix, id)) == 1 and n > 1 then
  local key = record_key(prefix, task_id)
  local record = redis.call('HMGET', key, 'steps', (n - 1) .. ':state')
  if record[1] and not TERMINAL[record[2]] then
    -- What an immutable step is given is no result.
    local steps = cjson.decode(record[1])
    end_step(prefix, task_id, steps, n - 1, 'SUCCESS', now_ms(), steps[n].immutable and '{}' or ARGV[10])
  end
elseif redis.call('EXISTS', record_key(prefix, id)) == 0 then
  local fields = {'adopted', 1, 'steps', ARGV[11]}
  for i = 12, #ARGV do
    fields[#fields + 1] = ARGV[i]
  end
  if root_id ~= id then
    fields[#fields + 1], fields[#fields + 2] = 'parent_task_id', (step_of(prefix, root_id))
  end
  local steps = cjson.decode(ARGV[11])
  create_record(prefix, id, fields, #steps)
  for later, step in ipairs(steps) do
    -- An id of the application's own may look like that of a later step.
    if later > 1 or task_id ~= id then
      redis.call('SET', step_key(prefix, step.id), id .. ' ' .. later)
    end
  end
end
return leases_publish(ARGV[2], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9])
