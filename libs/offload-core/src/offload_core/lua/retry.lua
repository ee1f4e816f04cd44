--- @include offload_core/lua/states.lua
-- Notes that a step failed and is tried again.
-- ARGV: the request as JSON: prefix, task_id, step, attempt, delivery, error (as JSON text), retry_at (ms).
-- Returns 'stored', or what `refusal` says. Events: task.retrying.
local request = cjson.decode(ARGV[1])
local n, key = request.step, record_key(request.prefix, request.task_id)
local refused = refusal(key, n, request.attempt, request.delivery)
if refused then
  return refused
end
local code, retry_at = cjson.decode(request.error).code, string.format('%.0f', request.retry_at)
local steps = cjson.decode(redis.call('HGET', key, 'steps'))
set_state(request.prefix, request.task_id, 'RETRY', 'reason', code, n .. ':state', 'RETRY', n .. ':error', request.error,
  n .. ':retry_at', retry_at)
emit(request.prefix, request.task_id, 'task.retrying',
  {reason = code, retry_at_ms = retry_at, step = step_data(request.prefix, request.task_id, steps, n)})
return 'stored'
