{{- define "offload.peers" -}}
{{- $root := .root -}}
{{- range .components }}
- podSelector:
    matchLabels: {{ include "offload.selector" (dict "root" $root "component" .) | nindent 6 }}
{{- end }}
{{- end }}

{{- define "offload.kedaPeers" -}}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ .Values.networkPolicy.keda.namespace }}
  podSelector:
    matchLabels:
      app: keda-operator
{{- end }}

{{- define "offload.dnsEgress" -}}
{{- $dns := .Values.networkPolicy.dns -}}
to:
  - namespaceSelector:
      matchLabels:
        kubernetes.io/metadata.name: {{ $dns.namespace }}
    podSelector:
      matchLabels: {{ toYaml $dns.podLabels | nindent 8 }}
  {{- range $dns.cidrs }}
  - ipBlock: {cidr: {{ . | quote }}}
  {{- end }}
ports:
  {{- range $dns.ports }}
  - {protocol: UDP, port: {{ . }}}
  - {protocol: TCP, port: {{ . }}}
  {{- end }}
{{- end }}

{{- define "offload.redisEgress" -}}
{{- $redis := include "offload.redis" . | fromJson -}}
{{- if $redis.bundled -}}
to: {{ include "offload.peers" (dict "root" . "components" (list "valkey")) | nindent 2 }}
ports:
  - port: 6379
{{- else -}}
{{ include "offload.externalEgress" (dict "of" .Values.networkPolicy.redis "hosts" $redis.hosts "ports" $redis.ports) }}
{{- end }}
{{- end }}

{{- define "offload.s3Egress" -}}
{{- if empty .Values.s3.bucket -}}
to: {{ include "offload.peers" (dict "root" . "components" (list "s3")) | nindent 2 }}
ports:
  - port: 8333
{{- else -}}
{{- $url := urlParse (.Values.s3.endpoint | default "https://s3.amazonaws.com") -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (eq $url.scheme "http" | ternary "80" "443") -}}
{{ include "offload.externalEgress" (dict "of" .Values.networkPolicy.s3 "hosts" (list $url.hostname) "ports" (list $port)) }}
{{- end }}
{{- end }}

{{- define "offload.smtpEgress" -}}
{{- if .Values.smtp.host -}}
{{ include "offload.externalEgress" (dict "of" .Values.networkPolicy.smtp "hosts" (list .Values.smtp.host) "ports" (list (.Values.smtp.port | toString))) }}
{{- else -}}
to: {{ include "offload.peers" (dict "root" . "components" (list "mailpit")) | nindent 2 }}
ports:
  - port: 1025
{{- end }}
{{- end }}

{{/* To a server outside: what the values name, or its own address. Takes (dict "of" policy "hosts" list "ports" list). */}}
{{- define "offload.externalEgress" -}}
{{- $blocks := .of.cidrs -}}
{{- if and (empty .of.cidrs) (empty .of.peers) -}}
{{- range .hosts -}}{{- $blocks = append $blocks (printf "%s/%s" . (contains ":" . | ternary "128" "32")) -}}{{- end -}}
{{- end -}}
to:
  {{- range $blocks }}
  - ipBlock:
      cidr: {{ . }}
  {{- end }}
  {{- with .of.peers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  {{- range .of.ports | default .ports }}
  - port: {{ . | int }}
  {{- end }}
{{- end }}
