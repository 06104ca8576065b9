{{/* Name of all objects. */}}
{{- define "outbox-relay.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-operator" (.Values.nameOverride | default .Release.Name | trunc 54 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* Name of what serves external metrics. */}}
{{- define "outbox-relay.externalMetrics" -}}
{{- printf "%s-external-metrics" (include "outbox-relay.fullname" . | trimSuffix "-operator" | trunc 46 | trimSuffix "-") -}}
{{- end -}}

{{- define "outbox-relay.selector" -}}
app.kubernetes.io/name: outbox-relay-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "outbox-relay.labels" -}}
{{ include "outbox-relay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: outbox-relay
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "outbox-relay.serviceAccount" -}}
{{- if .Values.serviceAccount.name -}}
{{- .Values.serviceAccount.name -}}
{{- else if .Values.serviceAccount.create -}}
{{- include "outbox-relay.fullname" . -}}
{{- else -}}
{{- fail "serviceAccount.name: has to name an account that is there, because serviceAccount.create is false" -}}
{{- end -}}
{{- end -}}

{{/* Arguments: an image of the values, the chart's appVersion. */}}
{{- define "outbox-relay.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default (index . 1)) -}}
{{- end -}}
{{- end -}}

{{/* What the restricted profile of pod security asks of a pod. The user is that of the distroless images. */}}
{{- define "outbox-relay.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "outbox-relay.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
