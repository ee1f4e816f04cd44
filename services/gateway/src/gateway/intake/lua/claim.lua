-- Claims an idempotency key for what a request creates; `accept.lua` does so for tasks.
-- ARGV: key, fingerprint, id of what is created, how long the key lives (ms).
-- Returns {0 or 1: whether it was claimed before, the fingerprint, the id} of the first request.
local known = redis.call('HMGET', ARGV[1], 'fingerprint', 'task_id')
if known[2] then
  return {1, known[1], known[2]}
end
redis.call('HSET', ARGV[1], 'fingerprint', ARGV[2], 'task_id', ARGV[3])
redis.call('PEXPIRE', ARGV[1], ARGV[4])
return {0, ARGV[2], ARGV[3]}
