--- @include offload_core/lua/states.lua
-- Notes how far a step is.
-- ARGV: prefix, task id, step, attempt, delivery, done, total.
-- Returns 'stored', or what `refusal` says, or 'fenced' when the step does not run. Events: task.progressed, at
-- most one in 500 ms.
local prefix, task_id, n = ARGV[1], ARGV[2], tonumber(ARGV[3])
local key = record_key(prefix, task_id)
local refused = refusal(key, n, tonumber(ARGV[4]), tonumber(ARGV[5]))
if refused then
  return refused
end
if redis.call('HGET', key, n .. ':state') ~= 'STARTED' then
  return 'fenced'
end
local progress, now = {done = tonumber(ARGV[6]), total = tonumber(ARGV[7])}, now_ms()
redis.call('HSET', key, n .. ':progress', cjson.encode(progress))
if now - (redis.call('HGET', key, n .. ':progressed_at') or 0) >= 500 then
  redis.call('HSET', key, n .. ':progressed_at', string.format('%.0f', now))
  local steps = cjson.decode(redis.call('HGET', key, 'steps'))
  emit(prefix, task_id, 'task.progressed', {step = step_data(prefix, task_id, steps, n), progress = progress})
end
return 'stored'
