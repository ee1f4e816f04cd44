--- @include offload_core/lua/states.lua
--- @include offload_core/lua/dead_letter.lua
--- @include celery_leases/scripts/discard.lua
-- Deletes a dead letter; what was kept for its sake lives on as long as that of any other task that has ended.
-- ARGV: the request as JSON: prefix, broker_prefix, queue, message_key, celery_id, keep_ms.
-- Returns 'deleted', 'dead_letter.missing' or 'dead_letter.unreported'. Events: none.
local request = cjson.decode(ARGV[1])
local letter, missing = dead_letter(request.broker_prefix, request.queue, request.message_key)
if not letter then
  return missing
end
local task_id = step_of(request.prefix, request.celery_id)
if TERMINAL[redis.call('HGET', record_key(request.prefix, task_id), 'state')] then
  expire_record(request.prefix, task_id, request.keep_ms)
end
leases_discard(request.broker_prefix, request.queue, request.message_key)
return 'deleted'
