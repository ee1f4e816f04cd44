--- @include offload_core/lua/records.lua
-- Notes that a step failed and is tried again.
-- ARGV: the request as JSON: prefix, task_id, step, attempt, delivery, error (as JSON text), retry_at (ms).
-- Returns 'stored', or what `refusal` says. Events: step RETRY.
local request = cjson.decode(ARGV[1])
local n, key = request.step, record_key(request.prefix, request.task_id)
local refused = refusal(key, n, request.attempt, request.delivery)
if refused then
  return refused
end
redis.call('HSET', key, 'state', 'RETRY', n .. ':state', 'RETRY', n .. ':error', request.error,
  n .. ':retry_at', string.format('%.0f', request.retry_at))
emit(request.prefix, request.task_id, 'step', n, 'RETRY')
return 'stored'
