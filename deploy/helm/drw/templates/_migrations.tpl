{{/* Specification of the migrations Job. */}}
{{- define "drw.migrations" }}
backoffLimit: {{ .Values.migrations.backoffLimit }}
activeDeadlineSeconds: {{ .Values.migrations.activeDeadlineSeconds }}
template:
  metadata:
    labels:
      {{- with .Values.podLabels }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
      {{- include "drw.selector" (list . "migrations") | nindent 6 }}
  spec:
    restartPolicy: OnFailure
    serviceAccountName: {{ include "drw.fullname" . }}-migrations
    automountServiceAccountToken: false
    enableServiceLinks: false
    {{- with .Values.image.pullSecrets }}
    imagePullSecrets:
      {{- range . }}
      - name: {{ . }}
      {{- end }}
    {{- end }}
    securityContext:
      {{- include "drw.podSecurity" . | nindent 6 }}
    containers:
      - name: migrations
        image: {{ include "drw.image" . | quote }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        command: [drw, migrate]
        env:
          - name: DRW_CONFIG
            value: /etc/drw/profile.toml
          {{- include "drw.secret" (list "DRW__POSTGRES" .Values.postgres.secret) | nindent 10 }}
        resources:
          requests: {cpu: 100m, memory: 256Mi}
          limits: {memory: 512Mi}
        securityContext:
          {{- include "drw.containerSecurity" . | nindent 10 }}
        volumeMounts:
          - {name: profile, mountPath: /etc/drw, readOnly: true}
          - {name: tmp, mountPath: /tmp}
    volumes:
      - name: profile
        configMap:
          name: {{ include "drw.fullname" . }}-profile
      - name: tmp
        emptyDir: {sizeLimit: 1Gi}
{{- end }}
