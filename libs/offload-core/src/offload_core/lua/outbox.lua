--- @include offload_core/lua/states.lua
--- @include celery_leases/scripts/publish.lua
--- @include offload_core/lua/envelope.lua
-- The outbox: what a task's subscriptions ask for when it ends is published by the script that ends it.

-- What a record asks to be done when its task ends. Each subscription has: `states`, of the task; `unless_queue`, of
-- the step that ended it; `name`, for the new task's id; `kind`, `task`, `queue` and `arguments` of the new task.
local function subscriptions(key)
  local found = redis.call('HMGET', key, 'subscriptions', 'notify', 'user_id')
  if found[1] then
    return cjson.decode(found[1])
  end
  -- A record of 0.1 says only whom to tell.
  if not found[2] then
    return {}
  end
  return {{
    states = {'FAILURE'}, unless_queue = 'mail', name = 'failure', kind = 'failure-notification',
    task = 'mail.notify_failure.v1', queue = 'mail', arguments = {to = found[2], user_id = found[3] or nil},
  }}
end

-- Publishes what is asked for when a task ends with step n, for this reason.
local function publish_outbox(prefix, broker, task_id, steps, n, state, reason, traceparent)
  local key = record_key(prefix, task_id)
  local asked = subscriptions(key)
  if #asked == 0 then
    return
  end
  local record = redis.call('HMGET', key, 'owner', 'trace_id', 'redrives')
  local step, times = steps[n], record[3] and #cjson.decode(record[3]) or 0
  for _, one in ipairs(asked) do
    local id = task_id .. '-' .. one.name .. (times > 0 and '-' .. times or '')
    local is_wanted = false
    for _, wanted in ipairs(one.states) do
      is_wanted = is_wanted or (wanted == state and step.queue ~= one.unless_queue)
    end
    if is_wanted and redis.call('EXISTS', record_key(prefix, id)) == 0 then
      local arguments = one.arguments
      arguments.failed_task_id, arguments.step = task_id, step.name
      arguments.code, arguments.reason = reason.code, reason.message
      local first = {name = one.task, queue = one.queue, id = id, stage = 1}
      local fields = {
        'kind', one.kind, 'owner', record[1], 'parent_task_id', task_id, 'steps', cjson.encode({first}),
      }
      if record[2] then
        fields[#fields + 1], fields[#fields + 2] = 'trace_id', record[2]
      end
      local message = envelope(id, first, 0, {cjson.encode(arguments)}, traceparent, {}, 'null')
      put_task(prefix, broker, id, fields, 1, 0, {{one.queue, id .. ':0:0', message}}, 0)
    end
  end
end
