{{- define "offload.gatewayContainer" -}}
lifecycle:
  preStop:
    sleep:
      seconds: {{ .Values.gateway.preStopSeconds }}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  {{- include "offload.hungGrace" . | nindent 2 }}
{{- /* Once Redis and S3 have answered it stays in: its 503 with Retry-After says more than a refused connection. */}}
readinessProbe:
  httpGet: {path: /startupz, port: http}
  periodSeconds: 2
  timeoutSeconds: 5
{{- end }}

{{- define "offload.gatewayEnv" -}}
{{ include "offload.env" (dict "root" . "user" "gateway") }}
{{ include "offload.blobEnv" . }}
{{ include "offload.linkEnv" . }}
- name: OFFLOAD_API_KEYS_FILE
  value: /etc/offload/api-keys/api-keys
- name: OFFLOAD_DEVELOPMENT_MODE
  value: {{ .Values.gateway.developmentMode | quote }}
- name: OFFLOAD_UPLOAD_LIMIT_BYTES
  value: {{ .Values.gateway.uploadLimitBytes | int64 | quote }}
- name: OFFLOAD_QUEUE_LIMIT
  value: {{ .Values.gateway.queueLimit | int64 | quote }}
- name: OFFLOAD_RATE_LIMIT_PER_SECOND
  value: {{ .Values.gateway.rateLimitPerSecond | quote }}
- name: OFFLOAD_RATE_LIMIT_BURST
  value: {{ .Values.gateway.rateLimitBurst | int64 | quote }}
- name: OFFLOAD_SHUTDOWN_SECONDS
  value: {{ .Values.gateway.shutdownSeconds | quote }}
{{- end }}
