--- @include offload_core/lua/redrive_letter.lua
-- Brings a dead letter back.
-- ARGV: the request as JSON: prefix, broker_prefix, queue, message_key, celery_id.
-- Returns what `redrive_letter` does. Events: task.redriven.
local request = cjson.decode(ARGV[1])
return redrive_letter(request.prefix, request.broker_prefix, request.queue, request.message_key, request.celery_id)
