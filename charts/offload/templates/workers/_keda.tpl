{{- define "offload.kedaNeedsRedisSecrets" -}}
{{- if or (include "offload.redisHasPassword" .) .Values.redis.caSecret .Values.trustedCASecret .Values.redis.clientSecret -}}yes{{- end -}}
{{- end }}

{{- /* A queue as KEDA's formula names it, where a dash subtracts and a digit begins a number. */}}
{{- define "offload.kedaName" -}}
queue_{{ replace "-" "_" . }}
{{- end }}

{{- /* Takes (dict "root" $ "queue" … "name" what is measured "key" the queue's key of it "target" per replica). */}}
{{- define "offload.redisTrigger" -}}
{{- $redis := include "offload.redis" .root | fromJson -}}
- type: {{ $redis.sentinel | ternary "redis-sentinel" "redis" }}
  name: {{ include "offload.kedaName" .queue }}_{{ .name }}
  metadata:
    {{- if $redis.sentinel }}
    addresses: {{ join "," $redis.addresses | quote }}
    sentinelMaster: {{ .root.Values.redis.sentinelMaster | quote }}
    {{- else }}
    address: {{ index $redis.addresses 0 | quote }}
    {{- end }}
    {{- $username := .root.Values.redis.acl | ternary "keda" .root.Values.redis.username }}
    {{- with $username }}
    username: {{ . | quote }}
    {{- end }}
    databaseIndex: {{ $redis.database | quote }}
    {{- if $redis.tls }}
    enableTLS: "true"
    {{- end }}
    # HLEN, LLEN or ZCARD, by the key's type.
    listName: {{ .root.Values.redis.keyPrefix }}queue:{{ .queue }}:{{ .key }}
    listLength: {{ .target | quote }}
  {{- if include "offload.kedaNeedsRedisSecrets" .root }}
  authenticationRef:
    name: {{ include "offload.fullname" .root }}-redis
  {{- end }}
{{- end }}
