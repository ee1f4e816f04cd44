{{/* Rules over several values, which the schema cannot say. All that is wrong is told at once: the key, the value, the remedy. */}}
{{- define "offload.validate" -}}
{{- $wrong := list -}}
{{- $values := .Values -}}
{{- $url := $values.redis.url -}}
{{- $policy := $values.networkPolicy -}}

{{- if contains "cluster" (regexFind "^[a-z+]+" $url) -}}
{{- $wrong = append $wrong (printf "redis.url: %q is a Redis Cluster, whose slots Celery's queues cannot cross. Use one primary: redis://, rediss:// or sentinel://." $url) -}}
{{- else if and $url (not (regexMatch "^(rediss?|(rediss-)?sentinel)://[^/@?]+(/[0-9]+)?$" $url)) -}}
{{- $wrong = append $wrong (printf "redis.url: %q must be redis://host:port/0, rediss://…, sentinel://host:port,host:port/0 or rediss-sentinel://…, without credentials: they go into the Secret of existingSecrets.redis." (regexReplaceAll "//[^@/]*@" $url "//…@")) -}}
{{- end -}}
{{- if and (regexMatch "^(rediss-)?sentinel:" $url) (not $values.redis.sentinelMaster) -}}
{{- $wrong = append $wrong "redis.sentinelMaster: must be set with a sentinel:// URL; it is the name after `sentinel monitor`." -}}
{{- end -}}
{{- if and (empty $url) (not $values.valkey.enabled) -}}
{{- $wrong = append $wrong "redis.url: must be set when valkey.enabled is false: there is no Redis otherwise." -}}
{{- end -}}
{{- if and (empty $url) $values.redis.username -}}
{{- $wrong = append $wrong (printf "redis.username: %q is a user of an external Redis, and redis.url is empty. Set redis.url, or use redis.acl for users of the bundled Valkey." $values.redis.username) -}}
{{- end -}}
{{- if and $values.gateway.apiKeys $values.existingSecrets.apiKeys -}}
{{- $wrong = append $wrong (printf "gateway.apiKeys: would not be used, because existingSecrets.apiKeys is %q. Put the lines under its key api-keys." $values.existingSecrets.apiKeys) -}}
{{- end -}}
{{- if and $url $values.redis.acl (not $values.existingSecrets.redis) -}}
{{- $wrong = append $wrong "existingSecrets.redis: must be set with redis.acl and an external Redis; it holds the users' passwords." -}}
{{- end -}}

{{- $hasS3 := or $values.s3.bucket $values.seaweedfs.enabled -}}
{{- $hasSmtp := or $values.smtp.host $values.mailpit.enabled -}}
{{- $fleets := include "offload.fleets" . | fromJson -}}
{{- if empty $fleets -}}
{{- $wrong = append $wrong "workers: there is no fleet; what is accepted would never be done." -}}
{{- end -}}
{{- range $name, $fleet := $fleets -}}
{{- $key := printf "workers.%s" $name -}}
{{- if empty $fleet.queues -}}
{{- $wrong = append $wrong (printf "%s.queues: must name a queue; this fleet would do nothing." $key) -}}
{{- end -}}
{{- if empty $fleet.image.repository -}}
{{- $named := list -}}
{{- range $image, $of := $values.images -}}{{- if kindIs "map" $of -}}{{- $named = append $named $image -}}{{- end -}}{{- end -}}
{{- $wrong = append $wrong (printf "%s.image: must be a name in images (%s), or an image itself: {repository: worker, tag: \"1\", registry: registry.example.com}." $key (sortAlpha $named | join ", ")) -}}
{{- end -}}
{{- if and $values.development.reload (empty $fleet.command) -}}
{{- $wrong = append $wrong (printf "%s.command: must be set with development.reload, which runs it anew when its code changes." $key) -}}
{{- end -}}
{{- if and $fleet.s3 (not $hasS3) -}}
{{- $wrong = append $wrong (printf "%s.needs has s3, but the release has no S3: set s3.bucket, or seaweedfs.enabled=true." $key) -}}
{{- end -}}
{{- if and $fleet.smtp (not $hasSmtp) -}}
{{- $wrong = append $wrong (printf "%s.needs has smtp, but the release has no mail server: set smtp.host, or mailpit.enabled=true." $key) -}}
{{- end -}}
{{- with include "offload.taskMemory" $fleet -}}
{{- $minimum := include "offload.bytes" $fleet.taskMemoryMinimum | int64 -}}
{{- if lt (int64 .) $minimum -}}
{{- $wrong = append $wrong (printf "%s.resources.limits.memory: %v leaves %d MiB for each of %v tasks at once, and one needs %v at least. Raise it, or lower concurrency." $key $fleet.resources.limits.memory (div (int64 .) 1048576) $fleet.concurrency $fleet.taskMemoryMinimum) -}}
{{- end -}}
{{- end -}}
{{- if and $fleet.scaled (not (kindIs "invalid" $fleet.replicas)) -}}
{{- $wrong = append $wrong (printf "%s.replicas: %v is fixed, and keda.enabled scales. Remove it (keda.minReplicas and keda.maxReplicas bound the fleet), or set %s.keda.enabled=false." $key $fleet.replicas $key) -}}
{{- end -}}
{{- if gt (int64 $fleet.keda.minReplicas) (int64 $fleet.keda.maxReplicas) -}}
{{- $wrong = append $wrong (printf "%s.keda.minReplicas: %v is more than maxReplicas %v." $key $fleet.keda.minReplicas $fleet.keda.maxReplicas) -}}
{{- end -}}
{{- if ge (int64 $fleet.softTimeLimitSeconds) (int64 $fleet.hardTimeLimitSeconds) -}}
{{- $wrong = append $wrong (printf "%s.softTimeLimitSeconds: %v must be less than hardTimeLimitSeconds %v, so that a step can end by itself." $key $fleet.softTimeLimitSeconds $fleet.hardTimeLimitSeconds) -}}
{{- end -}}
{{- if ge (int64 $fleet.hardTimeLimitSeconds) (int64 $fleet.drainSeconds) -}}
{{- $wrong = append $wrong (printf "%s.drainSeconds: %v must be more than hardTimeLimitSeconds %v, so that a rollout interrupts no step." $key $fleet.drainSeconds $fleet.hardTimeLimitSeconds) -}}
{{- end -}}
{{- if gt (add (int64 $fleet.drainSeconds) 5) (int64 $fleet.terminationGracePeriodSeconds) -}}
{{- $wrong = append $wrong (printf "%s.terminationGracePeriodSeconds: %v must be at least drainSeconds %v and 5 s, in which unfinished tasks are handed back." $key $fleet.terminationGracePeriodSeconds $fleet.drainSeconds) -}}
{{- end -}}
{{- end -}}

{{- /* A lease is renewed every third of it: two renewals and a sweep must fit, or one slow answer of Redis loses it. */ -}}
{{- if gt (addf (mulf (divf $values.lease.seconds 3) 2) $values.lease.sweepSeconds) (float64 $values.lease.seconds) -}}
{{- $wrong = append $wrong (printf "lease.seconds: %v is shorter than two renewals (each a third of it) and a sweep of %v s; set it to %v or more, or lower lease.sweepSeconds." $values.lease.seconds $values.lease.sweepSeconds (mulf $values.lease.sweepSeconds 3)) -}}
{{- end -}}

{{- if gt (add (int64 $values.gateway.preStopSeconds) (int64 $values.gateway.shutdownSeconds)) (int64 $values.gateway.terminationGracePeriodSeconds) -}}
{{- $wrong = append $wrong (printf "gateway.terminationGracePeriodSeconds: %v must be at least preStopSeconds %v and shutdownSeconds %v together." $values.gateway.terminationGracePeriodSeconds $values.gateway.preStopSeconds $values.gateway.shutdownSeconds) -}}
{{- end -}}
{{- if and $values.gateway.autoscaling.enabled (not (kindIs "invalid" $values.gateway.replicas)) -}}
{{- $wrong = append $wrong (printf "gateway.replicas: %v is fixed, and gateway.autoscaling.enabled scales. Remove one of them." $values.gateway.replicas) -}}
{{- end -}}

{{- if $policy.enabled -}}
{{- $outside := dict -}}
{{- if $url -}}{{- $_ := set $outside "redis" ((include "offload.redis" .) | fromJson).hosts -}}{{- end -}}
{{- if $values.s3.bucket -}}{{- $_ := set $outside "s3" (list (urlParse ($values.s3.endpoint | default "https://s3.amazonaws.com")).hostname) -}}{{- end -}}
{{- if $values.smtp.host -}}{{- $_ := set $outside "smtp" (list $values.smtp.host) -}}{{- end -}}
{{- if $values.telemetry.otlpEndpoint -}}{{- $_ := set $outside "otlp" (list (urlParse $values.telemetry.otlpEndpoint).hostname) -}}{{- end -}}
{{- range $what, $hosts := $outside -}}
{{- $of := index $policy $what -}}
{{- if and (empty $of.cidrs) (empty $of.peers) -}}
{{- range $host := $hosts -}}
{{- if not (include "offload.isAddress" $host) -}}
{{- $wrong = append $wrong (printf "networkPolicy.%s.cidrs: must be set for the host name %q: a NetworkPolicy knows addresses only. Or networkPolicy.%s.peers for pods of this cluster, or networkPolicy.enabled=false." $what $host $what) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- with $values.gateway.ingress -}}
{{- if and .enabled (empty .hosts) -}}
{{- $wrong = append $wrong "gateway.ingress.hosts: must name a host when gateway.ingress.enabled is true." -}}
{{- end -}}
{{- end -}}
{{- with $values.gateway.httpRoute -}}
{{- if and .enabled (empty .parentRefs) -}}
{{- $wrong = append $wrong "gateway.httpRoute.parentRefs: must name a Gateway when gateway.httpRoute.enabled is true, as in [{name: public, namespace: gateways}]." -}}
{{- end -}}
{{- end -}}
{{- if eq (toString $values.enabled) "false" -}}
{{- $wrong = append $wrong "enabled: false is for the `condition` of a chart that has this one among its dependencies; nothing else reads it. Use helm uninstall." -}}
{{- end -}}

{{- /* Whatever renders without the cluster (helm template, Argo CD) would make other secrets each time, and the next new pod would not know
the last ones. A list of a namespace's Secrets is empty without a cluster alone: with one it has a kind. */ -}}
{{- $own := include "offload.ownSecrets" . | fromJsonArray -}}
{{- if and $own (empty $values.secrets.seed) (empty (lookup "v1" "Secret" .Release.Namespace "")) -}}
{{- $wrong = append $wrong (printf "secrets.seed: must be set where Helm does not see the cluster (helm template, --dry-run=client, Argo CD): each render would make other secrets, and pods that start later would not know the earlier ones. Set it to 32 random characters or more (openssl rand -hex 32), or name Secrets of your own: existingSecrets.%s. Or use --dry-run=server." (join ", existingSecrets." (sortAlpha $own))) -}}
{{- end -}}

{{- /* A StatefulSet's claims cannot be changed: the API server would refuse the whole upgrade. */ -}}
{{- range $component, $of := dict "valkey" $values.valkey "s3" $values.seaweedfs -}}
{{- $found := lookup "apps/v1" "StatefulSet" $.Release.Namespace (printf "%s-%s" (include "offload.fullname" $) $component) -}}
{{- with (($found).spec).volumeClaimTemplates -}}
{{- $size := (first .).spec.resources.requests.storage -}}
{{- if ne $size (toString $of.persistence.size) -}}
{{- $wrong = append $wrong (printf "%s.persistence.size: the volume has %s, and Helm cannot change it to %v. Set it back, or follow docs/how-to/runbook.md (A volume is full)." (eq $component "s3" | ternary "seaweedfs" $component) $size $of.persistence.size) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- $needs := list -}}
{{- if $values.keda.enabled -}}
{{- $needs = append $needs (list "keda.enabled" "keda.sh/v1alpha1/ScaledObject" "Install KEDA: helm install keda kedacore/keda --namespace keda --create-namespace (https://keda.sh/docs/latest/deploy)") -}}
{{- end -}}
{{- if $values.monitoring.serviceMonitor.enabled -}}
{{- $needs = append $needs (list "monitoring.serviceMonitor.enabled" "monitoring.coreos.com/v1/ServiceMonitor" "Install the Prometheus Operator (https://prometheus-operator.dev/docs/getting-started/installation)") -}}
{{- end -}}
{{- if $values.monitoring.podMonitor.enabled -}}
{{- $needs = append $needs (list "monitoring.podMonitor.enabled" "monitoring.coreos.com/v1/PodMonitor" "Install the Prometheus Operator (https://prometheus-operator.dev/docs/getting-started/installation)") -}}
{{- end -}}
{{- if $values.monitoring.prometheusRule.enabled -}}
{{- $needs = append $needs (list "monitoring.prometheusRule.enabled" "monitoring.coreos.com/v1/PrometheusRule" "Install the Prometheus Operator (https://prometheus-operator.dev/docs/getting-started/installation)") -}}
{{- end -}}
{{- if $values.gateway.httpRoute.enabled -}}
{{- $needs = append $needs (list "gateway.httpRoute.enabled" "gateway.networking.k8s.io/v1/HTTPRoute" "Install the Gateway API (https://gateway-api.sigs.k8s.io/guides/getting-started)") -}}
{{- end -}}
{{- range $needs -}}
{{- if not ($.Capabilities.APIVersions.Has (index . 1)) -}}
{{- $wrong = append $wrong (printf "%s: true needs %s, which this cluster does not have. %s. For `helm template` without a cluster add --api-versions %s." (index . 0) (index . 1) (index . 2) (index . 1)) -}}
{{- end -}}
{{- end -}}

{{- if $wrong -}}
{{- fail (printf "\n\nThese values cannot work together:\n\n  %s\n" (join "\n\n  " $wrong)) -}}
{{- end -}}
{{- end }}
