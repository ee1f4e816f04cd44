--- @include offload_core/lua/queues.lua
-- Resumes a queue.
-- ARGV: the request as JSON: prefix, broker_prefix, queue, owner (who asks; null: only if the time of its pause has
--       passed, and for the owner who paused it).
-- Returns 1 when it was paused; then only there is an event of the owner's: queue.resumed.
local request = cjson.decode(ARGV[1])
local prefix, queue, owner = request.prefix, request.queue, request.owner
local until_ms, paused_by = string.match(redis.call('HGET', paused_queues(prefix), queue) or '', '^(%d+) (.*)$')
if owner == cjson.null then
  if not until_ms or until_ms == '0' or tonumber(until_ms) > now_ms() then
    return 0
  end
  owner = paused_by
end
local was_paused = leases_resume(request.broker_prefix, queue)
if redis.call('HDEL', paused_queues(prefix), queue) + was_paused == 0 then
  return 0
end
tell_of_queue(prefix, owner, queue, 'queue.resumed', {queue = queue})
return 1
