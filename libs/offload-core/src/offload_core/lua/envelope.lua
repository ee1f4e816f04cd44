-- A step's message, as `offload_core.messages` writes it; a test holds them together.

local ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

local function base64(text)
  local parts = {}
  for i = 1, #text, 3 do
    local a, b, c = text:byte(i, i + 2)
    local bits = a * 65536 + (b or 0) * 256 + (c or 0)
    local digits = {}
    for d = 4, 1, -1 do
      local position = bits % 64 + 1
      digits[d], bits = ALPHABET:sub(position, position), math.floor(bits / 64)
    end
    parts[#parts + 1] = digits[1] .. digits[2] .. (b and digits[3] or '=') .. (c and digits[4] or '=')
  end
  return table.concat(parts)
end

-- `step` has the id, name and queue of the step; `arguments` are the positional arguments as JSON texts, because cjson
-- cannot tell an empty list from an empty object. `more` are headers beside Celery's own, and `chain` is the Celery chain
-- of the later steps as JSON.
local function envelope(root_id, step, attempt, arguments, traceparent, more, chain)
  local none = cjson.null
  local headers = {
    lang = 'py', task = step.name, id = step.id, shadow = none, eta = none, expires = none, group = none,
    group_index = none, retries = attempt, timelimit = {none, none}, root_id = root_id, parent_id = none,
    argsrepr = '(hidden)', kwargsrepr = '(hidden)', origin = 'outbox', ignore_result = none,
    replaced_task_nesting = 0, stamped_headers = none, stamps = {}, published_at = now_ms() / 1000,
    traceparent = traceparent ~= '' and traceparent or nil,
  }
  for name, value in pairs(more) do
    headers[name] = value
  end
  local embedded = '{"callbacks": null, "errbacks": null, "chain": ' .. chain .. ', "chord": null}'
  return cjson.encode({
    body = base64('[[' .. table.concat(arguments, ', ') .. '], {}, ' .. embedded .. ']'),
    ['content-encoding'] = 'utf-8',
    ['content-type'] = 'application/json',
    headers = headers,
    properties = {
      correlation_id = step.id, reply_to = '', delivery_mode = 2, priority = 0, body_encoding = 'base64',
      delivery_info = {exchange = '', routing_key = step.queue}, delivery_tag = step.id,
    },
  })
end
