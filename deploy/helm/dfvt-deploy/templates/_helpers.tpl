{{- define "dfvt.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "dfvt.selector" -}}
app.kubernetes.io/name: dfvt-deploy
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "dfvt.labels" -}}
{{ include "dfvt.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "dfvt.closed" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "dfvt.folder" -}}
{{ ternary "/models" "/exports" (eq .Values.models.holds "repository") }}
{{- end -}}

{{- define "dfvt.bucket" -}}
{{ has .Values.models.source (list "s3" "gcs") }}
{{- end -}}
