--- @include offload_core/lua/states.lua
-- Has occurrences of the past run one after the other, behind those that wait already.
-- ARGV: the request as JSON: prefix, owner, name, occurrences (ms), limit (of those that wait).
-- Returns 1, or 0 when more would wait than may.
local request = cjson.decode(ARGV[1])
local key = schedule_key(request.prefix, request.owner, request.name)
local buffer = cjson.decode(redis.call('HGET', key, 'buffer') or '[]')
if #buffer + #request.occurrences > request.limit then
  return 0
end
for _, occurrence in ipairs(request.occurrences) do
  buffer[#buffer + 1] = occurrence
end
if #buffer > 0 then
  redis.call('HSET', key, 'buffer', cjson.encode(buffer))
  look_at(request.prefix, request.owner, request.name, 0)
end
return 1
