{{/* The ACL users of the services with their rules: the least keys and commands. docs/reference/redis-acl.md says why each. */}}
{{- define "offload.aclUsers" -}}
gateway: [resetkeys, "~offload:*", -@all, +@connection, +ping, +eval, +evalsha, +script|load, +hgetall, +hget, +hlen, +hset, +llen, +lindex, +zcard, +info, +config|get]
image-worker: [resetkeys, "~offload:*", resetchannels, "&offload:*", -@all, +@all]
mail-worker: [resetkeys, "~offload:*", resetchannels, "&offload:*", -@all, +@all]
beat: [resetkeys, "~offload:*", -@all, +@all]
keda: [resetkeys, "%R~offload:queue:*", -@all, +@connection, +ping, +eval, +type, +llen, +hlen, +zcard, +scard]
{{- end }}
