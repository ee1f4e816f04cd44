--- @include offload_core/lua/records.lua
-- Notes how far a step is. ARGV: prefix, task id, step, attempt, delivery, done, total.
local prefix, task_id, n = ARGV[1], ARGV[2], tonumber(ARGV[3])
local key = record_key(prefix, task_id)
if redis.call('HGET', key, n .. ':state') ~= 'STARTED' or is_stale(key, n, tonumber(ARGV[4]), tonumber(ARGV[5])) then
  return 'fenced'
end
local progress = cjson.encode({done = tonumber(ARGV[6]), total = tonumber(ARGV[7])})
redis.call('HSET', key, n .. ':progress', progress)
emit(prefix, task_id, 'progress', n, progress)
return 'stored'
