{{/* What every pod has in common. Takes (dict "root" $ "component" … "of" the component's values "fsGroup" bool). */}}
{{- define "offload.pod" -}}
automountServiceAccountToken: false
serviceAccountName: {{ .root.Values.serviceAccount.name | default (include "offload.fullname" .root) }}
enableServiceLinks: false
{{- with concat (.root.Values.images.pullSecrets) (((.root.Values.global).imagePullSecrets) | default list) }}
imagePullSecrets:
  {{- range . }}
  {{- /* A name, or as a pod has it. */}}
  - name: {{ if kindIs "map" . }}{{ .name }}{{ else }}{{ . }}{{ end }}
  {{- end }}
{{- end }}
{{- $security := omit .root.Values.podSecurityContext (.fsGroup | default false | ternary "" "fsGroup") (.fsGroup | default false | ternary "" "fsGroupChangePolicy") }}
securityContext: {{ include "offload.given" $security | nindent 2 }}
{{- with .of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .of.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- range $field := list "runtimeClassName" "dnsPolicy" "dnsConfig" "hostAliases" "initContainers" }}
{{- with index $.of $field }}
{{ dict $field . | toYaml }}
{{- end }}
{{- end }}
{{- end }}

{{/* A map as YAML without what is null: Helm 4 may leave it where Helm 3 takes it out. */}}
{{- define "offload.given" -}}
{{- $given := dict -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $given $key $value -}}{{- end -}}
{{- end -}}
{{- toYaml $given -}}
{{- end }}

{{/* Over nodes and zones as far as it goes: a pod that cannot be spread is better than one that cannot run. */}}
{{- define "offload.spread" -}}
topologySpreadConstraints:
  {{- with .of.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
  {{- else }}
  {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ include "offload.selector" $ | nindent 8 }}
  {{- end }}
  {{- end }}
{{- end }}

{{/* Takes (dict "root" $ "writable" bool): only a container with synced code has a writable root. */}}
{{- define "offload.containerSecurity" -}}
{{- $security := deepCopy .root.Values.containerSecurityContext -}}
{{- if .writable }}{{ $_ := set $security "readOnlyRootFilesystem" false }}{{ end -}}
securityContext: {{ include "offload.given" $security | nindent 2 }}
{{- end }}

{{/* A container's probes and lifecycle, with what the values say of each, and their `envFrom`. Takes (dict "root" $ "chart" YAML "of" the
component's values). */}}
{{- define "offload.container" -}}
{{- $fields := fromYaml .chart -}}
{{- if .root.Values.development.reload -}}
{{- /* A file that cannot be imported is mended by the next save, and not by a restart. */}}
{{- $fields = omit $fields "startupProbe" "livenessProbe" -}}
{{- end -}}
{{- range $kind := list "startupProbe" "readinessProbe" "livenessProbe" -}}
{{- with (hasKey $fields $kind) | ternary (index $.of $kind) nil -}}
{{- $_ := set $fields $kind (mustMergeOverwrite (index $fields $kind) (deepCopy .)) -}}
{{- end -}}
{{- end -}}
{{- range $field := list "lifecycle" "envFrom" -}}
{{- with index $.of $field -}}{{- $_ := set $fields $field . -}}{{- end -}}
{{- end -}}
{{- toYaml $fields -}}
{{- end }}

{{/* The command of a service: process 1 is the service itself, or the watcher in development, which runs the code of a volume of the pod's:
a container that is started again has what was synced, and not its image's code. Nothing where the image's own command runs. Takes (dict "root"
$ "command" list). */}}
{{- define "offload.command" -}}
{{- if .root.Values.development.reload -}}
command:
  - sh
  - -c
  - >-
    cp --recursive --update=none /opt/code/. /code &&
    export PYTHONPATH=$(echo $PYTHONPATH | sed s,/opt/code,/code,g) &&
    exec watchfiles --sigint-timeout 10 --grace-period 1 {{ join " " .command | squote }} /code
{{- else if .command -}}
command: {{ toYaml .command | nindent 2 }}
{{- end -}}
{{- end }}

{{/* The environment of every service. Takes (dict "root" $ "user" the ACL user "name" the service's name). */}}
{{- define "offload.env" -}}
- name: OFFLOAD_REDIS_URL
  value: {{ include "offload.redisUrl" .root | quote }}
{{- $username := .root.Values.redis.acl | ternary .user .root.Values.redis.username }}
{{- if $username }}
- name: OFFLOAD_REDIS_USERNAME
  value: {{ $username }}
{{- end }}
{{- if include "offload.redisHasPassword" .root }}
- name: OFFLOAD_REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "offload.secret" (dict "root" .root "of" "redis") }}
      key: {{ .root.Values.redis.acl | ternary (printf "redis-%s-password" .user) "redis-password" }}
{{- end }}
- name: OFFLOAD_KEY_PREFIX
  value: {{ .root.Values.redis.keyPrefix | quote }}
{{- if .root.Values.trustedCASecret }}
- name: OFFLOAD_CA_FILE
  value: /etc/offload/trusted-ca/ca.crt
{{- end }}
{{- with .root.Values.redis.sentinelMaster }}
- name: OFFLOAD_REDIS_SENTINEL_MASTER
  value: {{ . | quote }}
{{- end }}
- name: OFFLOAD_RESULT_EXPIRES_SECONDS
  value: {{ .root.Values.retention.resultSeconds | int64 | quote }}
- name: OFFLOAD_OUTPUT_RETENTION_SECONDS
  value: {{ .root.Values.retention.outputSeconds | int64 | quote }}
- name: OFFLOAD_DEAD_LETTER_RETENTION_SECONDS
  value: {{ .root.Values.retention.deadLetterSeconds | int64 | quote }}
- name: OFFLOAD_LOG_LEVEL
  value: {{ .root.Values.logLevel }}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- with .root.Values.telemetry.otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name={{ $.root.Release.Namespace }},k8s.pod.name=$(POD_NAME),service.version={{ $.root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "offload.leaseEnv" -}}
- name: OFFLOAD_LEASE_SECONDS
  value: {{ .Values.lease.seconds | toString | quote }}
- name: OFFLOAD_SWEEP_INTERVAL_SECONDS
  value: {{ .Values.lease.sweepSeconds | toString | quote }}
- name: OFFLOAD_LIVENESS_FILE
  value: /tmp/alive
- name: OFFLOAD_READINESS_FILE
  value: /tmp/ready
{{- end }}

{{- define "offload.blobEnv" -}}
- name: OFFLOAD_BLOB_URL
  value: s3://{{ .Values.s3.bucket | default "offload" }}
- name: OFFLOAD_S3_REGION
  value: {{ .Values.s3.region }}
{{- $endpoint := .Values.s3.bucket | empty | ternary (printf "http://%s-s3.%s.svc:8333" (include "offload.fullname" .) .Release.Namespace) .Values.s3.endpoint }}
{{- with $endpoint }}
- name: OFFLOAD_S3_ENDPOINT
  value: {{ . }}
{{- end }}
{{- if or (empty .Values.s3.bucket) .Values.existingSecrets.s3 }}
{{- $secret := include "offload.secret" (dict "root" . "of" "s3") }}
- name: OFFLOAD_S3_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: s3-access-key-id}
- name: OFFLOAD_S3_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: s3-secret-access-key}
{{- end }}
{{- end }}

{{- define "offload.linkEnv" -}}
- name: OFFLOAD_PUBLIC_URL
  value: {{ .Values.gateway.publicUrl | quote }}
- name: OFFLOAD_LINK_SECRET
  valueFrom:
    secretKeyRef: {name: {{ include "offload.secret" (dict "root" . "of" "links") }}, key: link-secret}
{{- end }}

{{/* Of a liveness probe: what is hung does not stop by itself, and must not be waited for as long as what works. */}}
{{- define "offload.hungGrace" -}}
terminationGracePeriodSeconds: 5
{{- end }}

{{/* The heartbeat files are looked at by a shell: a Python that imports Celery costs sixty times as much. */}}
{{- define "offload.heartbeatProbes" -}}
startupProbe:
  exec:
    command: [sh, -c, test -e /tmp/alive]
  periodSeconds: 1
  failureThreshold: 120
livenessProbe:
  exec:
    command: [sh, -c, "test $(( $(date +%s) - $(stat -c %Y /tmp/alive) )) -lt 30"]
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
  {{- include "offload.hungGrace" . | nindent 2 }}
readinessProbe:
  exec:
    command: [sh, -c, "test $(( $(date +%s) - $(stat -c %Y /tmp/ready) )) -lt 10"]
  periodSeconds: 3
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}

{{/* Mounts and volumes that every service has. Takes (dict "root" $ "of" values). */}}
{{- define "offload.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- if .root.Values.development.reload }}
- name: code
  mountPath: /code
{{- end }}
{{- if .root.Values.trustedCASecret }}
- name: trusted-ca
  mountPath: /etc/offload/trusted-ca
  readOnly: true
{{- end }}
{{- if .root.Values.redis.caSecret }}
- name: redis-ca
  mountPath: /etc/offload/redis-ca
  readOnly: true
{{- end }}
{{- if .root.Values.redis.clientSecret }}
- name: redis-client
  mountPath: /etc/offload/redis-client
  readOnly: true
{{- end }}
{{- with .of.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "offload.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- if .root.Values.development.reload }}
- name: code
  emptyDir: {}
{{- end }}
{{- with .root.Values.trustedCASecret }}
- name: trusted-ca
  secret:
    secretName: {{ . }}
{{- end }}
{{- with .root.Values.redis.caSecret }}
- name: redis-ca
  secret:
    secretName: {{ . }}
{{- end }}
{{- with .root.Values.redis.clientSecret }}
- name: redis-client
  secret:
    secretName: {{ . }}
{{- end }}
{{- with .of.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The chart's environment and the user's, in which the user's wins: a name must not stand there twice. Takes (dict "env" YAML "extra" list). */}}
{{- define "offload.mergedEnv" -}}
{{- $given := dict -}}
{{- range .extra }}{{- $_ := set $given .name true -}}{{- end -}}
{{- $merged := list -}}
{{- range fromYamlArray .env -}}
{{- if not (hasKey $given .name) -}}{{- $merged = append $merged . -}}{{- end -}}
{{- end -}}
{{- concat $merged (.extra | default list) | toYaml -}}
{{- end }}
