{{- define "offload.workerEnv" -}}
{{- $fleet := .fleet -}}
{{ include "offload.env" (dict "root" .root "user" $fleet.user) }}
{{ include "offload.leaseEnv" .root }}
- name: OFFLOAD_FLEET
  value: {{ $fleet.name }}
- name: OFFLOAD_QUEUES
  value: {{ join " " $fleet.queues }}
- name: OFFLOAD_CONCURRENCY
  value: {{ $fleet.concurrency | int64 | quote }}
- name: OFFLOAD_DRAIN_SECONDS
  value: {{ .root.Values.development.reload | ternary 1 $fleet.drainSeconds | toString | quote }}
- name: OFFLOAD_MAX_RETRIES
  value: {{ $fleet.maxRetries | int64 | quote }}
- name: OFFLOAD_SOFT_TIME_LIMIT_SECONDS
  value: {{ $fleet.softTimeLimitSeconds | int64 | quote }}
- name: OFFLOAD_HARD_TIME_LIMIT_SECONDS
  value: {{ $fleet.hardTimeLimitSeconds | int64 | quote }}
- name: OFFLOAD_MAX_TASKS_PER_CHILD
  value: {{ $fleet.maxTasksPerChild | int64 | quote }}
{{- with include "offload.taskMemory" $fleet }}
- name: OFFLOAD_TASK_MEMORY_LIMIT_BYTES
  value: {{ . | quote }}
{{- end }}
{{- if $fleet.s3 }}
{{ include "offload.blobEnv" .root }}
{{- end }}
{{- if $fleet.links }}
{{ include "offload.linkEnv" .root }}
{{- end }}
{{- if $fleet.smtp }}
{{- $smtp := include "offload.smtp" .root | fromJson }}
- name: OFFLOAD_MAIL_FROM
  value: {{ .root.Values.smtp.from | quote }}
{{- with .root.Values.smtp.fromName }}
- name: OFFLOAD_MAIL_FROM_NAME
  value: {{ . | quote }}
{{- end }}
- name: OFFLOAD_SMTP_HOST
  value: {{ $smtp.host }}
- name: OFFLOAD_SMTP_PORT
  value: {{ $smtp.port | int64 | quote }}
- name: OFFLOAD_SMTP_SECURITY
  value: {{ $smtp.security | quote }}
{{- if and (not $smtp.bundled) .root.Values.existingSecrets.smtp }}
- name: OFFLOAD_SMTP_USERNAME
  valueFrom:
    secretKeyRef: {name: {{ .root.Values.existingSecrets.smtp }}, key: smtp-username}
- name: OFFLOAD_SMTP_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ .root.Values.existingSecrets.smtp }}, key: smtp-password}
{{- end }}
{{- end }}
{{- end }}

{{- /* What is left of a pod's memory limit for each task that runs, in bytes: the worker itself takes 192 MiB, and each pool process 128 MiB
  beside what its task needs. Nothing where the pod has no limit, or the fleet names no minimum. */ -}}
{{- define "offload.taskMemory" -}}
{{- with empty .taskMemoryMinimum | ternary "" (dig "limits" "memory" "" .resources) -}}
{{- $free := sub (include "offload.bytes" . | int64) (add 201326592 (mul 134217728 ($.concurrency | int64))) -}}
{{- div $free ($.concurrency | int64) -}}
{{- end -}}
{{- end }}

{{- /* A quantity of memory (1Gi, 512Mi, 1500M, 1e9, 1000000) in bytes. */ -}}
{{- define "offload.bytes" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9.]+" $text | float64 -}}
{{- $unit := regexReplaceAll "^[0-9.]+" $text "" -}}
{{- $factors := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mulf $number (index $factors $unit | default 1 | float64) | int64 -}}
{{- end }}
