--- @include offload_core/lua/queues.lua
-- Pauses a queue, until a time (ms, 0: none) or until it is resumed.
-- ARGV: the request as JSON: prefix, broker_prefix, owner (who asks), queue, note, until_ms.
-- Returns 1 when it was not paused before; then only there is an event of the owner's: queue.paused.
local request = cjson.decode(ARGV[1])
local prefix, queue, until_ms = request.prefix, request.queue, request.until_ms
local is_new = leases_pause(request.broker_prefix, queue, request.note, until_ms)
redis.call('HSET', paused_queues(prefix), queue, string.format('%.0f %s', until_ms, request.owner))
if is_new == 1 then
  local data = {queue = queue, note = request.note, until_ms = until_ms > 0 and until_ms or nil}
  tell_of_queue(prefix, request.owner, queue, 'queue.paused', data)
end
return is_new
