--- @include offload_core/lua/records.lua
--- @include offload_core/lua/dead_letter.lua
--- @include celery_leases/scripts/discard.lua
-- Deletes a dead letter; what was kept for its sake lives on as long as that of any other task that has ended.
-- ARGV: prefix, broker prefix, queue, message key, task id or '', keep_ms.
-- Returns 'deleted', 'dead_letter.missing' or 'dead_letter.unreported'.
local prefix, broker, queue, message_key, task_id = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local letter, missing = dead_letter(broker, queue, message_key)
if not letter then
  return missing
end
local key = record_key(prefix, task_id)
if TERMINAL[redis.call('HGET', key, 'state')] then
  redis.call('PEXPIRE', key, ARGV[6])
  redis.call('PEXPIRE', prefix .. 'events:' .. task_id, ARGV[6])
end
leases_discard(broker, queue, message_key)
return 'deleted'
