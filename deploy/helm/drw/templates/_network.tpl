{{/* Parts of NetworkPolicies. */}}
{{- define "drw.policy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ index . 2 }}
  namespace: {{ (index . 0).Release.Namespace }}
  labels:
    {{- include "drw.labels" (list (index . 0) (index . 1)) | nindent 4 }}
{{- end }}
{{- define "drw.peer" -}}
- podSelector:
    matchLabels:
      {{- include "drw.selector" . | nindent 6 }}
{{- end }}
{{- define "drw.tcp" -}}
{{- range . }}
- protocol: TCP
  port: {{ . }}
{{- end }}
{{- end }}
{{- define "drw.endpoint" -}}
- to:
    {{- range .cidrs }}
    - ipBlock:
        cidr: {{ . }}
    {{- end }}
  ports:
    {{- include "drw.tcp" .ports | nindent 4 }}
{{- end }}
{{- define "drw.metricsReaders" -}}
{{- with .Values.networkPolicies.monitoringNamespaces }}
- from:
    {{- range . }}
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ . }}
    {{- end }}
  ports:
    - protocol: TCP
      port: 8001
{{- end }}
{{- end }}
{{- define "drw.outside" -}}
{{- with .Values.networkPolicies }}
- to:
    {{- $except := .internetExcept }}
    {{- range .internetCidrs }}
    - ipBlock:
        cidr: {{ . }}
        {{- if and $except (eq . "0.0.0.0/0") }}
        except:
          {{- toYaml $except | nindent 10 }}
        {{- end }}
    {{- end }}
  ports:
    {{- include "drw.tcp" .internetPorts | nindent 4 }}
{{- end }}
{{- if .Values.engines }}
- to:
    - podSelector:
        matchLabels:
          app.kubernetes.io/instance: {{ .Release.Name }}
          ai.drw.com/role: engine
{{- end }}
{{- end }}
{{- define "drw.platform" -}}
{{- if .Values.tracing.endpoint }}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .Values.tracing.namespace | default .Release.Namespace }}
  ports:
    - protocol: TCP
      port: {{ (urlParse .Values.tracing.endpoint).host | splitList ":" | rest | first | default "80" }}
{{- end }}
{{- if .Values.workloadIdentity.project }}
# The metadata server of GKE, which gives out tokens.
- to:
    - ipBlock:
        cidr: 169.254.169.252/32
    - ipBlock:
        cidr: 169.254.169.254/32
  ports:
    {{- include "drw.tcp" (list 80 987 988) | nindent 4 }}
{{- end }}
{{- end }}
