{{/* The name of a Secret: one that exists, or the chart's own. Takes (dict "root" $ "of" "redis"). */}}
{{- define "offload.secret" -}}
{{- index .root.Values.existingSecrets .of | default (printf "%s-%s" (include "offload.fullname" .root) (.of | kebabcase)) -}}
{{- end }}

{{/* A secret value: kept over upgrades once it was made, else derived from the seed, else random. Takes (dict "root" $
"secret" name "key" key "length" 40). */}}
{{- define "offload.kept" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- $kept := index (($found).data | default dict) .key -}}
{{- if $kept -}}{{ $kept | b64dec }}
{{- else if .root.Values.secrets.seed -}}
{{- printf "%s/%s/%s/%s" .root.Values.secrets.seed .root.Release.Namespace .secret .key | sha256sum | trunc .length -}}
{{- else -}}{{ randAlphaNum .length }}{{- end -}}
{{- end }}

{{/* Which of `existingSecrets` the chart makes itself, as a JSON list: those that are needed and have no name. */}}
{{- define "offload.ownSecrets" -}}
{{- $own := list -}}
{{- range $of, $needed := dict "apiKeys" true "links" true "redis" (empty .Values.redis.url) "s3" (empty .Values.s3.bucket) -}}
{{- if and $needed (empty (index $.Values.existingSecrets $of)) -}}{{- $own = append $own $of -}}{{- end -}}
{{- end -}}
{{- toJson $own -}}
{{- end }}

{{/* The Secrets that the chart makes, as JSON: name -> key -> value. Made once for all templates: a random one is another each time. */}}
{{- define "offload.madeSecrets" -}}
{{- if not (hasKey .Values "madeSecrets") -}}
{{- $own := include "offload.ownSecrets" . | fromJsonArray -}}
{{- $made := dict -}}
{{- if has "apiKeys" $own -}}
{{- $name := include "offload.secret" (dict "root" $ "of" "apiKeys") -}}
{{- $key := include "offload.kept" (dict "root" $ "secret" $name "key" "api-key" "length" 43) | trimPrefix "offload_" | printf "offload_%s" -}}
{{- $lines := prepend .Values.gateway.apiKeys (printf "default:%s:admin,operator,tasks" (sha256sum $key)) -}}
{{- $_ := set $made $name (dict "api-key" $key "api-keys" (printf "%s\n" (join "\n" $lines))) -}}
{{- end -}}
{{- $wanted := dict -}}
{{- if has "links" $own -}}{{- $_ := set $wanted "links" (dict "link-secret" 48) -}}{{- end -}}
{{- if has "redis" $own -}}
{{- $keys := dict "redis-password" 40 -}}
{{- if .Values.redis.acl -}}
{{- range include "offload.aclUsers" . | fromYaml | keys -}}{{- $_ := set $keys (printf "redis-%s-password" .) 40 -}}{{- end -}}
{{- end -}}
{{- $_ := set $wanted "redis" $keys -}}
{{- end -}}
{{- if has "s3" $own -}}{{- $_ := set $wanted "s3" (dict "s3-secret-access-key" 40) -}}{{- end -}}
{{- range $of, $keys := $wanted -}}
{{- $name := include "offload.secret" (dict "root" $ "of" $of) -}}
{{- $data := dict -}}
{{- range $key, $length := $keys -}}
{{- $_ := set $data $key (include "offload.kept" (dict "root" $ "secret" $name "key" $key "length" $length)) -}}
{{- end -}}
{{- if eq $of "s3" -}}{{- $_ := set $data "s3-access-key-id" "offload" -}}{{- end -}}
{{- $_ := set $made $name $data -}}
{{- end -}}
{{- $_ := set .Values "madeSecrets" $made -}}
{{- end -}}
{{- toJson .Values.madeSecrets -}}
{{- end }}

{{/* A checksum of what a pod reads of Secrets at its start, so that a changed one reaches it with the next upgrade; nothing where Helm
cannot see them. Takes (dict "root" $ "of" (list "redis" …)). */}}
{{- define "offload.secretChecksum" -}}
{{- $root := .root -}}
{{- $made := include "offload.madeSecrets" $root | fromJson -}}
{{- $prefixes := dict "redis" "redis-" "s3" "s3-" "links" "link-" "smtp" "smtp-" -}}
{{- $seen := dict -}}
{{- range $of := .of -}}
{{- $name := index $root.Values.existingSecrets $of -}}
{{- $data := dict -}}
{{- if $name -}}
{{- range $key, $value := ((lookup "v1" "Secret" $root.Release.Namespace $name).data) | default dict -}}{{- $_ := set $data $key (b64dec $value) -}}{{- end -}}
{{- else -}}
{{- $data = index $made (include "offload.secret" (dict "root" $root "of" $of)) | default dict -}}
{{- end -}}
{{- range $key, $value := $data -}}
{{- if hasPrefix (index $prefixes $of) $key -}}{{- $_ := set $seen (printf "%s/%s" $of $key) $value -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if $seen -}}
checksum/secrets: {{ toJson $seen | sha256sum }}
{{- end -}}
{{- end }}
