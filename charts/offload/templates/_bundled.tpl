{{/* Valkey, S3 and mail catcher for installations that bring none. Nothing of the chart's version stands in their pods: an upgrade of
the chart does not restart them. */}}
{{- define "offload.claim" -}}
volumeClaimTemplates:
  - metadata:
      name: data
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .storageClass }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests:
          storage: {{ .size }}
{{- end }}
