{{- define "offload.beatEnv" -}}
{{ include "offload.env" (dict "root" . "user" "beat") }}
{{ include "offload.leaseEnv" . }}
- name: OFFLOAD_TIME_ZONE
  value: {{ .Values.beat.timeZone }}
- name: OFFLOAD_REPORT_CRON
  value: {{ .Values.beat.reportCron | quote }}
{{- with .Values.beat.reportRecipients }}
- name: OFFLOAD_REPORT_RECIPIENTS
  value: {{ join " " . | quote }}
{{- end }}
{{- end }}
