{{- define "offload.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* A name that is too long ends with a hash of the whole: two that begin alike must not meet. */}}
{{- define "offload.fullname" -}}
{{- $name := include "offload.name" . -}}
{{- $made := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- $whole := .Values.fullnameOverride | default $made | trimSuffix "-" -}}
{{- if gt (len $whole) 40 -}}
{{- printf "%s-%s" (trunc 33 $whole | trimSuffix "-") (sha256sum $whole | trunc 6) -}}
{{- else -}}
{{- $whole -}}
{{- end -}}
{{- end }}

{{/* Selector labels never change in a release's life: no version among them. Takes (dict "root" $ "component" …). */}}
{{- define "offload.selector" -}}
app.kubernetes.io/name: {{ include "offload.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "offload.labels" -}}
{{ include "offload.selector" . }}
app.kubernetes.io/part-of: offload
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_") }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Takes (dict "root" $ "image" .Values.images.…). */}}
{{- define "offload.image" -}}
{{- $values := .root.Values -}}
{{- $registry := (($values.global).imageRegistry) | default .image.registry | default $values.images.registry -}}
{{- $name := $registry | empty | ternary .image.repository (printf "%s/%s" $registry .image.repository) -}}
{{- if .image.digest -}}
{{ $name }}{{ with .image.tag }}:{{ . }}{{ end }}@{{ .image.digest }}
{{- else -}}
{{ $name }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The fleets that are enabled, with their defaults, and with what follows from their values, as JSON. */}}
{{- define "offload.fleets" -}}
{{- $fleets := dict -}}
{{- range $name, $given := .Values.workers -}}
{{- /* Helm 3 takes out what is null, Helm 4 may leave it. */ -}}
{{- $fleet := mustMergeOverwrite (deepCopy $.Values.workerDefaults) (deepCopy ($given | default (dict "enabled" false))) -}}
{{- if $fleet.enabled -}}
{{- range $need := list "s3" "smtp" "links" "internet" -}}{{- $_ := set $fleet $need (has $need $fleet.needs) -}}{{- end -}}
{{- /* An image of its own, or one of `images` by its name; an empty one where there is none of that name. */ -}}
{{- if kindIs "string" $fleet.image -}}
{{- $named := get $.Values.images $fleet.image -}}
{{- $_ := set $fleet "image" (kindIs "map" $named | ternary $named dict) -}}
{{- end -}}
{{- $_ := set $fleet "name" $name -}}
{{- $_ := set $fleet "component" (printf "worker-%s" $name) -}}
{{- $_ := set $fleet "user" ($fleet.redis.user | default $fleet.component) -}}
{{- $_ := set $fleet "scaled" (and $.Values.keda.enabled $fleet.keda.enabled) -}}
{{- $_ := set $fleets $name $fleet -}}
{{- end -}}
{{- end -}}
{{- $fleets | toJson -}}
{{- end }}

{{/* Where Redis is, as JSON: bundled, sentinel, tls, addresses (host:port, …), hosts, ports, database. */}}
{{- define "offload.redis" -}}
{{- if .Values.redis.url -}}
{{- $scheme := regexFind "^[a-z-]+" .Values.redis.url -}}
{{- $rest := regexReplaceAll "^[a-z-]+://" .Values.redis.url "" -}}
{{- $sentinel := hasSuffix "sentinel" $scheme -}}
{{- $default := $sentinel | ternary "26379" "6379" -}}
{{- $addresses := list -}}
{{- $hosts := list -}}
{{- $ports := list -}}
{{- range $node := splitList "," (index (splitList "/" $rest) 0) -}}
{{- /* An IPv6 address stands in brackets. */ -}}
{{- $host := regexFind "^(\\[[^\\]]*\\]|[^:]*)" $node -}}
{{- $port := trimPrefix $host $node | trimPrefix ":" | default $default -}}
{{- $addresses = append $addresses (printf "%s:%s" $host $port) -}}
{{- $hosts = append $hosts (trimAll "[]" $host) -}}
{{- $ports = append $ports $port -}}
{{- end -}}
{{- if $sentinel -}}{{- $ports = append $ports "6379" -}}{{- end -}}
{{- dict "bundled" false "sentinel" $sentinel "tls" (hasPrefix "rediss" $scheme) "addresses" $addresses "hosts" $hosts "ports" (uniq $ports) "database" (regexFind "/[0-9]+$" $rest | trimPrefix "/" | default "0") | toJson -}}
{{- else -}}
{{- $address := printf "%s-valkey.%s.svc:6379" (include "offload.fullname" .) .Release.Namespace -}}
{{- dict "bundled" true "sentinel" false "tls" false "addresses" (list $address) "hosts" list "ports" (list "6379") "database" "0" | toJson -}}
{{- end -}}
{{- end }}

{{/* Whether Redis is logged in to: the bundled one is, an external one where a Secret is named. */}}
{{- define "offload.redisHasPassword" -}}
{{- if or (include "offload.redis" . | fromJson).bundled .Values.existingSecrets.redis -}}yes{{- end -}}
{{- end }}

{{- define "offload.redisUrl" -}}
{{- $redis := include "offload.redis" . | fromJson -}}
{{- if $redis.bundled -}}
redis://{{ index $redis.addresses 0 }}/0
{{- else -}}
{{- $options := list -}}
{{- if .Values.redis.caSecret }}{{ $options = append $options "ssl_ca_certs=/etc/offload/redis-ca/ca.crt" }}{{ end -}}
{{- if .Values.redis.clientSecret -}}
{{- $options = concat $options (list "ssl_certfile=/etc/offload/redis-client/tls.crt" "ssl_keyfile=/etc/offload/redis-client/tls.key") -}}
{{- end -}}
{{ .Values.redis.url }}{{ with $options }}?{{ join "&" . }}{{ end }}
{{- end -}}
{{- end }}

{{- define "offload.smtp" -}}
{{- if .Values.smtp.host -}}
{{- dict "bundled" false "host" .Values.smtp.host "port" .Values.smtp.port "security" .Values.smtp.security | toJson -}}
{{- else -}}
{{- dict "bundled" true "host" (printf "%s-mailpit" (include "offload.fullname" .)) "port" 1025 "security" "none" | toJson -}}
{{- end -}}
{{- end }}

{{/* Whether a host is an IP address, from which its address block follows. */}}
{{- define "offload.isAddress" -}}
{{- regexMatch "^([0-9]+(\\.[0-9]+){3}|[0-9a-fA-F]*:[0-9a-fA-F:.]*)$" . | ternary "yes" "" -}}
{{- end }}

{{/*
The line `replicas: …` of a Deployment, or nothing. Takes (dict "root" $ "name" … "replicas" number or null "scaled" bool).

Where the values name no number, it belongs to whoever scales: KEDA, an HPA, `kubectl scale`. But a number that an earlier upgrade has set would fall to 1
when it disappears from the manifest; so the number that stands is kept there. With server-side apply it is enough that somebody else has set it too.
*/}}
{{- define "offload.replicas" -}}
{{- if and (not .scaled) (not (kindIs "invalid" .replicas)) -}}
replicas: {{ .replicas | int64 }}
{{- else -}}
{{- $live := lookup "apps/v1" "Deployment" .root.Release.Namespace .name -}}
{{- $applied := false -}}
{{- $applier := false -}}
{{- $other := false -}}
{{- range ($live.metadata).managedFields -}}
{{- if eq .operation "Apply" -}}{{- $applied = true -}}{{- end -}}
{{- if kindIs "map" (dig "fieldsV1" "f:spec" "f:replicas" "" .) -}}
{{- if eq .operation "Apply" -}}{{- $applier = true -}}{{- else -}}{{- $other = true -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $live (or (not $applied) (and $applier (not $other))) -}}
replicas: {{ $live.spec.replicas | int64 }}
{{- end -}}
{{- end -}}
{{- end -}}
