--- @include offload_core/lua/records.lua
--- @include offload_core/lua/dead_letter.lua
--- @include celery_leases/scripts/discard.lua
-- Deletes a dead letter; what was kept for its sake lives on as long as that of any other task that has ended.
-- ARGV: the request as JSON: prefix, broker_prefix, queue, message_key, task_id, keep_ms.
-- Returns 'deleted', 'dead_letter.missing' or 'dead_letter.unreported'. Events: none.
local request = cjson.decode(ARGV[1])
local letter, missing = dead_letter(request.broker_prefix, request.queue, request.message_key)
if not letter then
  return missing
end
local key = record_key(request.prefix, request.task_id)
if TERMINAL[redis.call('HGET', key, 'state')] then
  redis.call('PEXPIRE', key, request.keep_ms)
  redis.call('PEXPIRE', request.prefix .. 'events:' .. request.task_id, request.keep_ms)
end
leases_discard(request.broker_prefix, request.queue, request.message_key)
return 'deleted'
