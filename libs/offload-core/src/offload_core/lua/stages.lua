--- @include offload_core/lua/lifecycle.lua
--- @include celery_leases/scripts/withdraw.lua
-- The stages of a task: one step, or branches that run at once. The script that stores the last result of a stage
-- publishes the next one, so that it is published once, whatever dies.
-- `steps` is the record's field of that name, decoded. A record of 0.2 has no stages: its steps are a Celery chain.

local function stage_of(steps, n)
  return steps[n].stage or n
end

-- Whether every step of a stage has succeeded.
local function is_complete(key, steps, stage)
  for n = 1, #steps do
    if stage_of(steps, n) == stage and redis.call('HGET', key, n .. ':state') ~= 'SUCCESS' then
      return false
    end
  end
  return true
end

-- What a stage gives to the next one, as JSON: the result of its step, or the list of its branches' results.
local function given_by(key, steps, stage)
  local results = {}
  for n = 1, #steps do
    if stage_of(steps, n) == stage then
      results[#results + 1] = redis.call('HGET', key, n .. ':result')
    end
  end
  if #results == 1 then
    return results[1]
  end
  return '[' .. table.concat(results, ', ') .. ']'
end

-- The steps after n as a Celery chain, by which a worker of 0.2 publishes them; 'null' where there are branches.
local function chain_after(key, steps, n)
  if stage_of(steps, #steps) ~= #steps or n == #steps then
    return 'null'
  end
  local chain = {}
  for later = #steps, n + 1, -1 do
    local step = steps[later]
    chain[#chain + 1] = string.format('{"task": %s, "args": [%s], "kwargs": {}, "options": {"queue": %s, "task_id": %s, '
      .. '"reply_to": ""}, "subtask_type": null, "immutable": false}', cjson.encode(step.name),
      redis.call('HGET', key, later .. ':message'), cjson.encode(step.queue), cjson.encode(step.id))
  end
  return '[' .. table.concat(chain, ', ') .. ']'
end

local function publish_step(prefix, broker, task_id, steps, n, attempt, traceparent)
  local key, step = record_key(prefix, task_id), steps[n]
  local found = redis.call('HMGET', key, n .. ':message', 'headers')
  local more = found[2] and cjson.decode(found[2]) or {}
  more.task_type_version = step.version
  local arguments = {found[1]}
  if stage_of(steps, n) > 1 then
    arguments = {given_by(key, steps, stage_of(steps, n) - 1), found[1]}
  end
  local message = envelope(task_id, step, attempt, arguments, traceparent, more,
    chain_after(key, steps, n))
  leases_publish(broker, step.queue, step.id .. ':' .. string.format('%d', attempt) .. ':0', message, 0, 0)
end

local function publish_stage(prefix, broker, task_id, steps, stage, traceparent)
  for n = 1, #steps do
    if stage_of(steps, n) == stage then
      publish_step(prefix, broker, task_id, steps, n, 0, traceparent)
    end
  end
end

-- Takes the message of a step away. Returns whether there was one that nobody had taken.
local function withdraw_step(prefix, broker, task_id, steps, n)
  local found = redis.call('HMGET', record_key(prefix, task_id), n .. ':state', n .. ':attempt', n .. ':first_attempt')
  -- A redriven step waits with its first attempt, and one that waits for a retry with the next; the current one may
  -- still be on its way out.
  local attempt = math.max(tonumber(found[2] or 0), tonumber(found[3] or 0))
  local id = steps[n].id
  local taken = leases_withdraw(broker, steps[n].queue, id .. ':' .. string.format('%d', attempt) .. ':0')
  if found[1] == 'RETRY' then
    taken = leases_withdraw(broker, steps[n].queue, id .. ':' .. string.format('%d', attempt + 1) .. ':0')
  end
  return taken == 1
end

-- Takes away the messages of a stage's steps that nobody has taken yet, and ends these steps for this reason: but that
-- of the step `spare`, which the caller ends. Returns how many steps are still under way.
local function withdraw_stage(prefix, broker, task_id, steps, stage, reason, spare)
  local key, under_way = record_key(prefix, task_id), 0
  for n = 1, #steps do
    if stage_of(steps, n) == stage and not TERMINAL[redis.call('HGET', key, n .. ':state')] then
      if not withdraw_step(prefix, broker, task_id, steps, n) then
        under_way = under_way + 1
      elseif n ~= spare then
        end_step(prefix, task_id, steps, n, 'REVOKED', now_ms(), cjson.encode({code = reason}))
      end
    end
  end
  return under_way
end

-- The first step that has not ended, or nil.
local function first_open(key, steps)
  for n = 1, #steps do
    if not TERMINAL[redis.call('HGET', key, n .. ':state')] then
      return n
    end
  end
end

-- Ends a task that was not started in time: the step n says so.
local function expire_task(prefix, broker, task_id, steps, n, now, keep_ms, traceparent)
  local error = {code = 'task.expired', message = 'the task was not started in time'}
  withdraw_stage(prefix, broker, task_id, steps, 1, 'task.expired', n)
  end_step(prefix, task_id, steps, n, 'FAILURE', now, cjson.encode(error), error.code)
  redis.call('ZREM', prefix .. 'expiring', task_id)
  end_task(prefix, broker, task_id, steps, n, 'FAILURE', 'task.expired', now, keep_ms, error, traceparent)
end
