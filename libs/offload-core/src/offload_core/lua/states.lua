--- @include offload_core/lua/records.lua
--- @include celery_leases/scripts/publish.lua
--- @include offload_core/lua/envelope.lua
--- @include offload_core/lua/batches.lua
--- @include offload_core/lua/schedules.lua
-- How a task and its steps change: nothing else writes their states. Each change stands in the record, in the lists of
-- tasks by state, and in two streams of events: that of the task, and that of its owner. What there is of
-- an owner there is once more of all owners, who is called '' there. What an owner's webhooks ask for is published with it.

-- As many events are kept of a task and of an owner, roughly.
local TASK_EVENTS, OWNER_EVENTS = 1000, 10000

-- The tasks in a state, by creation.
local function list_key(prefix, owner, state)
  return prefix .. 'tasks:' .. owner .. ':' .. state
end

-- A longer result does not travel with its webhook, whose body has 20 kB at most.
local RESULT_BYTES = 19000
-- Deliveries of webhooks are tasks of Offload's own, whom no webhook tells of anything.
local WEBHOOK, OURS = 'webhook', 'offload'
local ENDS = {['task.succeeded'] = true, ['task.failed'] = true, ['task.cancelled'] = true}
-- The trace that what an event publishes belongs to, where the script knows it.
local event_trace = ''

local function has_one_of(wanted, found)
  for _, one in ipairs(wanted) do
    for _, other in ipairs(found) do
      if one == other then
        return true
      end
    end
  end
  return #wanted == 0
end

-- Publishes the delivery of an event to one endpoint, or to the `url` of a callback: a task with a record of its own.
-- `event` has: source (the task's id, or the endpoint's that it is of), owner, entry (its id in the source's stream),
-- type, data (JSON text), and `result` where there is one: a function that returns it as JSON text.
local function publish_webhook(prefix, event, endpoint, url, retry, trace_id)
  local id = event.source .. '-' .. event.entry .. '-' .. (endpoint or 'callback')
  local data, result = event.data, event.result and event.result() or ''
  if result ~= '' and #result <= RESULT_BYTES then
    data = string.sub(data, 1, -2) .. ', "result": ' .. result .. '}'
  end
  local message = {
    endpoint = endpoint, url = url, owner = event.owner, type = event.type, data = data,
    event = string.format('evt_%s_%s', string.gsub(event.entry, '-', '_'), event.source),
  }
  local step = {name = 'webhook.deliver.v1', queue = 'webhooks', id = id, stage = 1}
  local fields = {
    'kind', WEBHOOK, 'owner', OURS, 'parent_task_id', event.source, 'steps', cjson.encode({step}),
    'tags', cjson.encode({endpoint or 'callback'}),
  }
  if trace_id then
    fields[#fields + 1], fields[#fields + 2] = 'trace_id', trace_id
  end
  local text = envelope(id, step, 0, {cjson.encode(message)}, event_trace, {retry = retry}, 'null')
  put_task(prefix, prefix .. 'queue:', id, fields, 1, 0, {{step.queue, id .. ':0:0', text}}, 0)
end

-- Publishes an event to all that its owner's webhooks, and its task's callback, ask for.
function publish_webhooks(prefix, event, tags, callback, trace_id)
  if event.owner == OURS then
    return
  end
  local endpoints = redis.call('HGETALL', prefix .. 'subscriptions:' .. event.owner)
  for i = 1, #endpoints, 2 do
    local wanted = cjson.decode(endpoints[i + 1])
    if has_one_of(wanted.events, {event.type}) and has_one_of(wanted.tags, tags and cjson.decode(tags) or {}) then
      publish_webhook(prefix, event, endpoints[i], nil, wanted.retry, trace_id)
    end
  end
  if callback and ENDS[event.type] then
    publish_webhook(prefix, event, nil, callback, nil, trace_id)
  end
end

-- Appends an event to the streams of its owner; returns its id there.
function emit_to(prefix, owner, kind, event, text)
  local id
  for _, one in ipairs({'', owner}) do
    -- There are as many deliveries as events: in the stream of all they would be most of it.
    if one ~= '' or kind ~= WEBHOOK then
      id = append_event(prefix .. 'events-of:' .. one, OWNER_EVENTS, event, text)
    end
  end
  return id
end

-- What happened to a task: one of the types of `offload_core.events`. `data` is a table, which gets the task's id, kind
-- and state. `result` is that of `publish_webhook`.
local function emit(prefix, task_id, event, data, result)
  local found = redis.call('HMGET', record_key(prefix, task_id), 'owner', 'kind', 'state', 'tags', 'callback_url',
    'trace_id', 'batch', 'schedule')
  data.task_id, data.kind, data.state = task_id, found[2] or '', found[3]
  local text = cjson.encode(data)
  local id = append_event(prefix .. 'events:' .. task_id, TASK_EVENTS, event, text)
  emit_to(prefix, found[1], data.kind, event, text)
  publish_webhooks(prefix, {source = task_id, owner = found[1], entry = id, type = event, data = text, result = result},
    found[4], found[5], found[6] or nil)
  if found[7] and (ENDS[event] or event == 'task.redriven') then
    tell_batch(prefix, found[7], task_id, found[3], event, text)
  end
  if found[8] and ENDS[event] then
    tell_schedule(prefix, found[1], found[8], event)
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
  local found = redis.call('HMGET', key, 'state', 'owner', 'created_at', 'batch')
  redis.call('HSET', key, 'state', state, ...)
  if found[1] == state then
    return
  end
  if found[4] then
    count_in_batch(prefix, found[4], found[1] or nil, state)
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

function create_record(prefix, task_id, fields, count)
  redis.call('HSET', record_key(prefix, task_id), 'created_at', string.format('%.0f', now_ms()), 'count', count,
    unpack(fields))
  set_state(prefix, task_id, 'PENDING')
  emit(prefix, task_id, 'task.accepted', {})
end

-- Puts a new task into Redis: its record with `count` steps and these fields (names and values), and its first messages,
-- each a queue, a message key and a text. `expires_at` (ms, 0: never) is until when it must be started.
function put_task(prefix, broker, task_id, fields, count, expires_at, messages, due_ms)
  create_record(prefix, task_id, fields, count)
  if tonumber(expires_at) > 0 then
    redis.call('ZADD', prefix .. 'expiring', string.format('%.0f', expires_at), task_id)
  end
  for _, message in ipairs(messages) do
    leases_publish(broker, message[1], message[2], message[3], due_ms, 0)
  end
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
