{{/* Prefix of all names. */}}
{{- define "drw.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 30 | trimSuffix "-" -}}
{{- end -}}

{{/* Name of a service on Kubernetes: (list $ service). */}}
{{- define "drw.name" -}}
{{- printf "%s-%s" (include "drw.fullname" (index . 0)) (index . 1 | replace "_" "-") -}}
{{- end -}}

{{/* DNS name of a service: (list $ service). */}}
{{- define "drw.host" -}}
{{- $root := index . 0 -}}
{{- printf "%s.%s.svc.%s" (include "drw.name" .) $root.Release.Namespace $root.Values.clusterDomain -}}
{{- end -}}

{{/* Image with digest or tag. */}}
{{- define "drw.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}
{{- else -}}{{ .repository }}:{{ required "image.digest or image.tag is required" .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels that select the pods of a component: (list $ component). */}}
{{- define "drw.selector" -}}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/name: {{ index . 1 | replace "_" "-" }}
app.kubernetes.io/part-of: drw
{{- end -}}

{{/* All labels of a component: (list $ component). */}}
{{- define "drw.labels" -}}
{{ include "drw.selector" . }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
{{- end -}}

{{/* Security of a pod: the restricted Pod Security Standard. */}}
{{- define "drw.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Security of a container. */}}
{{- define "drw.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Fields that all pods have: (list $ component nodeSelector tolerations). */}}
{{- define "drw.pod" -}}
{{- $root := index . 0 -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "drw.podSecurity" $root | nindent 2 }}
{{- with $root.Values.priorityClass }}
priorityClassName: {{ . }}
{{- end }}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with index . 2 }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with index . 3 }}
tolerations:
  {{- range . }}
  - operator: {{ .operator | default "Exists" }}
    {{- with .key }}
    key: {{ . | quote }}
    {{- end }}
    {{- with .value }}
    value: {{ . | quote }}
    {{- end }}
    {{- with .effect }}
    effect: {{ . }}
    {{- end }}
  {{- end }}
{{- end }}
topologySpreadConstraints:
  {{- $selector := include "drw.selector" (list $root (index . 1)) }}
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- $selector | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end -}}

{{/* An environment variable from a Secret: (list variable secretKey). */}}
{{- define "drw.secret" -}}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef:
      name: {{ (index . 1).name }}
      key: {{ (index . 1).key }}
{{- end -}}

{{/* Files of the profile as a list for DRW_CONFIG. */}}
{{- define "drw.config" -}}
/etc/drw/profile.toml{{ if .Values.settings }}:/etc/drw/settings.toml{{ end }}
{{- end -}}

{{/* A HorizontalPodAutoscaler: (list $ component name replicas maxReplicas). */}}
{{- define "drw.autoscaler" -}}
{{- $root := index . 0 -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ index . 2 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "drw.labels" (list $root (index . 1)) | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ index . 2 }}
  minReplicas: {{ index . 3 }}
  maxReplicas: {{ index . 4 }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ $root.Values.autoscaling.cpuPercent }}
  behavior:
    scaleDown:
      stabilizationWindowSeconds: {{ $root.Values.autoscaling.scaleDownSeconds }}
{{- end -}}

{{/* A PodDisruptionBudget: (list $ component name). */}}
{{- define "drw.disruptionBudget" -}}
{{- $root := index . 0 -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ index . 2 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "drw.labels" (list $root (index . 1)) | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "drw.selector" (list $root (index . 1)) | nindent 6 }}
{{- end -}}

{{/* A ServiceAccount: (list $ component name annotations). */}}
{{- define "drw.serviceAccount" -}}
{{- $root := index . 0 -}}
{{- $annotations := index . 3 | default dict -}}
{{- with $root.Values.workloadIdentity.project -}}
{{- $account := printf "%s@%s.iam.gserviceaccount.com" (index $ 2) . -}}
{{- $annotations = merge (dict) $annotations (dict "iam.gke.io/gcp-service-account" $account) -}}
{{- end -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ index . 2 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "drw.labels" (list $root (index . 1)) | nindent 4 }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end -}}
