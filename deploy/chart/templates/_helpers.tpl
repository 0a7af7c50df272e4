{{- define "jepack.name" -}}
{{- if contains "jepack" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-jepack{{ end -}}
{{- end }}

{{- define "jepack.selector" -}}
app.kubernetes.io/name: jepack
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "jepack.labels" -}}
{{ include "jepack.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "jepack.image" -}}
{{ .repository }}:{{ .tag }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "jepack.shut" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: { drop: [ALL] }
{{- end }}

{{/* Where the bundle is in the containers. */}}
{{- define "jepack.bundle" -}}
{{- if .Values.bundle.claim }}/bundle{{ with .Values.bundle.path }}/{{ . }}{{ end }}{{ else }}/work/bundle{{ end -}}
{{- end }}

{{- define "jepack.mounts" -}}
volumeMounts:
  - { name: work, mountPath: /work }
  - { name: tmp, mountPath: /tmp }
{{- if .Values.bundle.claim }}
  - { name: bundle, mountPath: /bundle, readOnly: true }
{{- end }}
{{- end }}

{{/* What makes no sense together, told before anything is installed. */}}
{{- define "jepack.check" -}}
{{- with .Values.bundle }}
{{- if and .claim .repo }}{{ fail "bundle.claim and bundle.repo: a bundle comes from one place. Leave one empty" }}{{ end }}
{{- if not (or .claim .repo) }}{{ fail "no bundle: set bundle.repo, bundle.revision and bundle.fingerprint (the Hub), or bundle.claim (a volume)" }}{{ end }}
{{- if and .repo (not (and .revision .fingerprint)) }}{{ fail "bundle.repo needs bundle.revision (40 digits) and bundle.fingerprint (16): jepack pull USER/REPO tells both" }}{{ end }}
{{- end }}
{{- if gt (int .Values.autoscaling.min) (int .Values.autoscaling.max) }}{{ fail "autoscaling.min is above autoscaling.max" }}{{ end }}
{{- end }}
