--- @include offload_core/lua/records.lua
-- How a task and its steps change: nothing else writes their states. Each change stands in the record, in the lists of
-- tasks by state, and in two streams of events: that of the task, and that of its owner. What there is of
-- an owner there is once more of all owners, who is called '' there.

-- As many events are kept of a task and of an owner, roughly.
local TASK_EVENTS, OWNER_EVENTS = 1000, 10000

-- The tasks in a state, by creation.
local function list_key(prefix, owner, state)
  return prefix .. 'tasks:' .. owner .. ':' .. state
end

-- What happened to a task: one of the types of `offload_core.events`. `data` is a table, which gets the task's id, kind
-- and state.
local function emit(prefix, task_id, event, data)
  local found = redis.call('HMGET', record_key(prefix, task_id), 'owner', 'kind', 'state')
  data.task_id, data.kind, data.state = task_id, found[2] or '', found[3]
  local text = cjson.encode(data)
  redis.call('XADD', prefix .. 'events:' .. task_id, 'MAXLEN', '~', TASK_EVENTS, '*', 'type', event, 'data', text)
  for _, owner in ipairs({'', found[1]}) do
    redis.call('XADD', prefix .. 'events-of:' .. owner, 'MAXLEN', '~', OWNER_EVENTS, '*', 'type', event, 'data', text)
  end
end

-- What an event says of a step. `steps` is the record's field of that name, decoded.
local function step_data(prefix, task_id, steps, n)
  local attempt = redis.call('HGET', record_key(prefix, task_id), n .. ':attempt') or 0
  -- What replaced a task of Celery's counts on from a million: offload_core.records.REPLACED.
  return {number = n, name = steps[n] and steps[n].name or '', attempts = attempt % 1000000 + 1}
end

-- Moves a task to a state and writes its further fields; the events of it are the caller's.
local function set_state(prefix, task_id, state, ...)
  local key = record_key(prefix, task_id)
  local found = redis.call('HMGET', key, 'state', 'owner', 'created_at')
  redis.call('HSET', key, 'state', state, ...)
  if found[1] == state then
    return
  end
  for _, owner in ipairs({'', found[2]}) do
    if found[1] then
      redis.call('ZREM', list_key(prefix, owner, found[1]), task_id)
    end
    redis.call('ZADD', list_key(prefix, owner, state), found[3], task_id)
  end
end

-- Ends a step with its result, or its error and that error's code.
local function end_step(prefix, task_id, steps, n, state, now, outcome, code)
  redis.call('HSET', record_key(prefix, task_id), n .. ':state', state, n .. ':ended_at', now,
    n .. (state == 'SUCCESS' and ':result' or ':error'), outcome)
  if state ~= 'REVOKED' then
    local event = state == 'SUCCESS' and 'step.succeeded' or 'step.failed'
    emit(prefix, task_id, event, {step = step_data(prefix, task_id, steps, n), reason = code})
  end
end

local function create_record(prefix, task_id, fields, count)
  redis.call('HSET', record_key(prefix, task_id), 'created_at', string.format('%.0f', now_ms()), 'count', count,
    unpack(fields))
  set_state(prefix, task_id, 'PENDING')
  emit(prefix, task_id, 'task.accepted', {})
end

-- What the list of the tasks that leave the lists holds of one: where it is now.
local function forgetting(prefix, task_id)
  local found = redis.call('HMGET', record_key(prefix, task_id), 'owner', 'state')
  return cjson.encode({found[1] or '', found[2], task_id})
end

-- The record and what belongs to it are there for so long from now on, and then the task leaves the lists.
local function expire_record(prefix, task_id, ms)
  for _, key in ipairs(record_keys(prefix, task_id)) do
    redis.call('PEXPIRE', key, ms)
  end
  redis.call('ZADD', prefix .. 'forgetting', string.format('%.0f', now_ms() + ms), forgetting(prefix, task_id))
end

-- The opposite: the task lives again, and nothing of it expires before it ends again. To be called in its old state.
local function keep_record(prefix, task_id)
  for _, key in ipairs(record_keys(prefix, task_id)) do
    redis.call('PERSIST', key)
  end
  redis.call('ZREM', prefix .. 'forgetting', forgetting(prefix, task_id))
end
