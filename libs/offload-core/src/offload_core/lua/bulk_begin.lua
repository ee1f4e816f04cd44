-- Notes a bulk operation that is asked for, unless too many are under way.
-- ARGV: the request as JSON: prefix, bulk (its id), fields (a list of names and values), limit, now, silent_ms (after so
--       long without a sign of life one is not under way any more).
-- Returns 1, or 0 when there are too many.
local request = cjson.decode(ARGV[1])
local running = request.prefix .. 'bulks'
local oldest = string.format('%.0f', request.now - request.silent_ms)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', running, '-inf', oldest)) do
  redis.call('ZREM', running, id)
end
if redis.call('ZCARD', running) >= request.limit then
  return 0
end
redis.call('ZADD', running, string.format('%.0f', request.now), request.bulk)
redis.call('HSET', request.prefix .. 'bulk:' .. request.bulk, unpack(request.fields))
return 1
