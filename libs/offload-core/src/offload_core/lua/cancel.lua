--- @include offload_core/lua/cancel_task.lua
-- Cancels a task.
-- ARGV: the request as JSON: prefix, broker_prefix, task_id, keep_ms.
-- Returns what `cancel_task` does. Events: those of the task's end.
local request = cjson.decode(ARGV[1])
return cancel_task(request.prefix, request.broker_prefix, request.task_id, request.keep_ms)
