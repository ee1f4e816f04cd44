--- @include offload_core/lua/records.lua
-- Notes that a step failed and is tried again.
-- ARGV: prefix, task id, step, attempt, delivery, error, retry_at (ms).
local prefix, task_id, n = ARGV[1], ARGV[2], tonumber(ARGV[3])
local key = record_key(prefix, task_id)
local record = redis.call('HMGET', key, 'state', n .. ':state')
if not record[1] then
  return 'record.missing'
end
if TERMINAL[record[1]] or TERMINAL[record[2]] then
  return 'ended'
end
if is_stale(key, n, tonumber(ARGV[4]), tonumber(ARGV[5])) then
  return 'fenced'
end
redis.call('HSET', key, 'state', 'RETRY', n .. ':state', 'RETRY', n .. ':error', ARGV[6], n .. ':retry_at', ARGV[7])
emit(prefix, task_id, 'step', n, 'RETRY')
return 'stored'
