--- @include offload_core/lua/states.lua
-- Writes a schedule's definition. Its occurrences count from `since` on.
-- ARGV: the request as JSON: prefix, owner, name, definition (text), now, since, note (or null), paused, if_match (its revision,
--       or null), must_be_new, due (or null), limit (of schedules of an owner).
-- Returns {'created', 'changed', 'mismatch' or 'limit', revision}.
local request = cjson.decode(ARGV[1])
local prefix, owner, name = request.prefix, request.owner, request.name
local key, now = schedule_key(prefix, owner, name), string.format('%.0f', request.now)
local known = tonumber(redis.call('HGET', key, 'revision') or 0)
if (request.if_match ~= cjson.null and request.if_match ~= known) or (request.must_be_new and known > 0) then
  return {'mismatch', known}
end
if known == 0 and redis.call('ZCARD', schedules_of_key(prefix, owner)) >= request.limit then
  return {'limit', 0}
end
redis.call('HSET', key, 'definition', request.definition, 'updated_at', now, 'since',
  string.format('%.0f', request.since))
redis.call('HSETNX', key, 'created_at', now)
redis.call('HDEL', key, 'finished_at', 'buffer', 'paused', 'note')
if request.paused then
  redis.call('HSET', key, 'paused', 1)
end
if request.note ~= cjson.null then
  redis.call('HSET', key, 'note', request.note)
end
for _, one in ipairs({'', owner}) do
  redis.call('ZADD', schedules_of_key(prefix, one), 'NX', now, owner .. ':' .. name)
end
look_at(prefix, owner, name, not request.paused and request.due or nil)
return {known == 0 and 'created' or 'changed', redis.call('HINCRBY', key, 'revision', 1)}
