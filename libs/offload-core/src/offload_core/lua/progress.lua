--- @include offload_core/lua/records.lua
-- Notes how far a step is.
-- ARGV: prefix, task id, step, attempt, delivery, done, total.
-- Returns 'stored', or what `refusal` says, or 'fenced' when the step does not run. Events: progress.
local prefix, task_id, n = ARGV[1], ARGV[2], tonumber(ARGV[3])
local key = record_key(prefix, task_id)
local refused = refusal(key, n, tonumber(ARGV[4]), tonumber(ARGV[5]))
if refused then
  return refused
end
if redis.call('HGET', key, n .. ':state') ~= 'STARTED' then
  return 'fenced'
end
local progress = cjson.encode({done = tonumber(ARGV[6]), total = tonumber(ARGV[7])})
redis.call('HSET', key, n .. ':progress', progress)
emit(prefix, task_id, 'progress', n, progress)
return 'stored'
