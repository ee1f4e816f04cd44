--- @include offload_core/lua/records.lua
-- Notes that a step failed and is tried again.
-- ARGV: prefix, task id, step, attempt, delivery, error, retry_at (ms).
-- Returns 'stored', or what `refusal` says.
local prefix, task_id, n = ARGV[1], ARGV[2], tonumber(ARGV[3])
local key = record_key(prefix, task_id)
local refused = refusal(key, n, tonumber(ARGV[4]), tonumber(ARGV[5]))
if refused then
  return refused
end
redis.call('HSET', key, 'state', 'RETRY', n .. ':state', 'RETRY', n .. ':error', ARGV[6], n .. ':retry_at', ARGV[7])
emit(prefix, task_id, 'step', n, 'RETRY')
return 'stored'
