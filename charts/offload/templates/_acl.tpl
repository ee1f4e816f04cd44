{{/*
The ACL users of the services, with the least keys and commands: docs/reference/redis-acl.md is written from here. Commands inside of
scripts are checked like those of the client itself.
*/}}
{{- define "offload.aclUsers" -}}
{{- $session := "-@all +hello +auth +ping +select +client|setinfo +client|setname +client|id" -}}
{{- $scripts := "+eval +evalsha +script|load +script|exists +time +exists +hget +hmget +hset +hincrby +hexists +hlen +pexpire +pttl +xadd +get +lpush +llen +ltrim +sadd +zadd +zcard +zscore +zrem +hgetall" -}}
{{- $sweeps := "+set +hdel +hscan +hsetnx +hvals +rpush +smembers +srandmember +srem +type +unlink +zrangebyscore" -}}
{{- $consumes := "+rpop +brpop +del +publish +psubscribe +subscribe +unsubscribe +punsubscribe +multi +exec" -}}
{{- $prefix := .Values.redis.keyPrefix -}}
{{- $queues := list "queue" "task" "tasks" "step" "ended" "events" "events-of" "figures" "idempotency" "subscriptions" "batch" "batch-items" "schedule" | join (printf ":* ~%s" $prefix) | printf "~%s%s:*" $prefix -}}
{{- $queues = printf "%[1]s ~%[2]sexpiring ~%[2]sforgetting ~%[2]sbatches ~%[2]sschedules" $queues $prefix -}}
{{- $control := printf "resetchannels &%[1]squeue:/*.celery.pidbox &%[1]squeue:/0.celery.pidbox &%[1]squeue:/0.reply.celery.pidbox*" $prefix -}}
gateway:
  keys: {{ $queues }} ~{{ $prefix }}rate:* ~{{ $prefix }}health ~{{ $prefix }}bulks ~{{ $prefix }}paused-queues ~{{ $prefix }}tenants ~{{ $prefix }}api-keys ~{{ $prefix }}api-keys-used ~{{ $prefix }}access-version ~{{ $prefix }}audit ~{{ $prefix }}clock ~{{ $prefix }}exporter ~{{ $prefix }}catalogue ~{{ $prefix }}catalogue:*{{ range list "webhook" "webhooks-of" "webhook-attempts" "bulk" "schedules-of" }} ~{{ $prefix }}{{ . }}:*{{ end }}
  commands: {{ $session }} {{ $scripts }} +smembers +hdel +hsetnx +set +del +multi +exec +lrange +pexpireat +hvals +incr +zrevrangebyscore +zrange +zrevrange +zrangebyscore +zrank +zrevrank +zcount +xread +xrange +xrevrange +xinfo|stream +persist +info +config|get
{{- /* Fleets that share a user have what any of them needs. */}}
{{- $users := dict }}
{{- range include "offload.fleets" . | fromJson }}
{{- $found := get $users .user | default (dict "keys" list "commands" list) }}
{{- $_ := set $users .user (dict "keys" (concat $found.keys .redis.keys (list "catalogue" (printf "catalogue:%s" .name)) | uniq) "commands" (concat $found.commands .redis.commands | uniq)) }}
{{- end }}
{{- range $user, $more := $users }}
{{ $user }}:
  keys: {{ $queues }}{{ range $more.keys }} ~{{ $prefix }}{{ . }}{{ end }}
  channels: {{ $control }}
  commands: {{ $session }} {{ $scripts }} {{ $sweeps }} {{ $consumes }}{{ range $more.commands }} +{{ . | lower }}{{ end }}
{{- end }}
beat:
  keys: {{ $queues }} ~{{ $prefix }}slots ~{{ $prefix }}paused-queues ~{{ $prefix }}schedules-of:* ~{{ $prefix }}configured-schedules ~{{ $prefix }}clock
  commands: {{ $session }} {{ $scripts }} {{ $sweeps }} +zrange
keda:
  keys: ~{{ $prefix }}queue:*
  commands: {{ $session }} +eval +type +llen +hlen +zcard +scard
{{- end }}

{{/* The rules of one user as the words of an ACL. */}}
{{- define "offload.aclRules" -}}
resetkeys {{ .keys }} {{ .channels | default "resetchannels" }} {{ .commands }}
{{- end }}
