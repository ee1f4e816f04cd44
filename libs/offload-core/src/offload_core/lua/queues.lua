--- @include offload_core/lua/states.lua
--- @include celery_leases/scripts/pause.lua
-- What those scripts share that pause and resume queues.

-- Which queues are paused: until when (ms, 0: no end), and who asked for it.
local function paused_queues(prefix)
  return prefix .. 'paused-queues'
end

-- What happened to a queue, for the owner who asked for it. `data` is a table.
local function tell_of_queue(prefix, owner, queue, event, data)
  local text = cjson.encode(data)
  local entry = emit_to(prefix, owner, '', event, text)
  publish_webhooks(prefix, {source = queue, owner = owner, entry = entry, type = event, data = text})
end
