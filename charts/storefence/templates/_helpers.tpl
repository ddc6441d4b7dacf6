{{- define "storefence.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimAll "-" -}}
{{- end -}}

{{- define "storefence.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimAll "-" -}}
{{- else if contains (include "storefence.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimAll "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "storefence.name" .) | trunc 40 | trimAll "-" -}}
{{- end -}}
{{- end -}}

{{- /* The templates below take a dict: root is the chart's context, part is "operator" or "gateway",
    more holds further labels. */ -}}

{{- define "storefence.selector" -}}
app.kubernetes.io/name: {{ include "storefence.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "storefence.labels" -}}
{{ include "storefence.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: storefence
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with merge (deepCopy (default dict .more)) .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "storefence.partName" -}}
{{- printf "%s-%s" (include "storefence.fullname" .root) .part -}}
{{- end -}}

{{- define "storefence.serviceAccountName" -}}
{{- $account := (index .root.Values .part).serviceAccount -}}
{{- if $account.create -}}
{{- default (include "storefence.partName" .) $account.name -}}
{{- else -}}
{{- default "default" $account.name -}}
{{- end -}}
{{- end -}}

{{- define "storefence.image" -}}
{{- $image := (index .root.Values .part).image -}}
{{- if $image.digest -}}
{{- printf "%s/%s@%s" .root.Values.image.registry $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s/%s:%s" .root.Values.image.registry $image.repository (default .root.Chart.AppVersion .root.Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "storefence.serviceAccount" -}}
{{- $values := index .root.Values .part -}}
{{- if $values.serviceAccount.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "storefence.serviceAccountName" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "storefence.labels" . | nindent 4 }}
  {{- $annotations := dict }}
  {{- if $values.clientId }}
  {{- $_ := set $annotations "azure.workload.identity/client-id" $values.clientId }}
  {{- end }}
  {{- with merge (deepCopy $values.serviceAccount.annotations) $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
# The pods ask for the token themselves.
automountServiceAccountToken: false
{{- end }}
{{- end -}}

{{- /* Labels of pods: the selector, the workload identity webhook's mark, and the user's. */ -}}
{{- define "storefence.podLabels" -}}
{{- $labels := dict -}}
{{- if eq .root.Values.azure.credential "workload-identity" -}}
{{- $_ := set $labels "azure.workload.identity/use" "true" -}}
{{- end -}}
{{- $labels = merge (deepCopy (index .root.Values .part).podLabels) (deepCopy .root.Values.commonLabels) $labels -}}
{{ include "storefence.selector" . }}
{{- with $labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* What holds for every pod of the release: the Pod Security Standard "restricted". A dict's user replaces the values'. */ -}}
{{- define "storefence.podSecurity" -}}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- with default .root.Values.podSecurityContext.runAsUser .user }}
  runAsUser: {{ int64 . }}
  {{- end }}
  {{- with default .root.Values.podSecurityContext.runAsGroup .user }}
  runAsGroup: {{ int64 . }}
  {{- end }}
  {{- with default .root.Values.podSecurityContext.fsGroup .user }}
  fsGroup: {{ int64 . }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- /* All of a pod's spec that is the same for both parts, but for containers and volumes. */ -}}
{{- define "storefence.podSpec" -}}
{{- $values := index .root.Values .part -}}
serviceAccountName: {{ include "storefence.serviceAccountName" . }}
automountServiceAccountToken: true
enableServiceLinks: false
{{ include "storefence.podSecurity" . }}
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "storefence.selector" $ | nindent 8 }}
  {{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "storefence.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* Environment that both binaries know. */ -}}
{{- define "storefence.env" -}}
- name: STOREFENCE_CONFIG
  value: /etc/storefence/config/config.yaml
- name: STOREFENCE_ADMIN_LISTEN
  value: 0.0.0.0:9090
- name: STOREFENCE_LOG_FORMAT
  value: {{ .root.Values.log.format | quote }}
- name: RUST_LOG
  value: {{ .root.Values.log.level | quote }}
- name: STOREFENCE_CREDENTIAL
  value: {{ .root.Values.azure.credential | quote }}
{{- with .root.Values.azure.authorityHost }}
- name: AZURE_AUTHORITY_HOST
  value: {{ . | quote }}
{{- end }}
- name: STOREFENCE_KEY_VAULT_RESOURCE
  value: {{ .root.Values.azure.keyVaultResource | quote }}
{{- if .root.Values.azure.caBundle.configMap }}
- name: STOREFENCE_CA_FILE
  value: /etc/storefence/trust/{{ .root.Values.azure.caBundle.key }}
{{- end }}
{{- end -}}

{{- /* Where a database's trust root is mounted, if it has one. */ -}}
{{- define "storefence.caFile" -}}
{{- if .caFile -}}
{{- .caFile -}}
{{- else if .caSecret -}}
/etc/storefence/databases/{{ .name }}/ca/{{ .caSecret.key }}
{{- else if .caConfigMap -}}
/etc/storefence/databases/{{ .name }}/ca/{{ .caConfigMap.key }}
{{- end -}}
{{- end -}}

{{- /* Whole directories, never single files: only those follow a change of the Secret. */ -}}
{{- define "storefence.mounts" -}}
- name: config
  mountPath: /etc/storefence/config
  readOnly: true
{{- if .root.Values.azure.caBundle.configMap }}
- name: trust
  mountPath: /etc/storefence/trust
  readOnly: true
{{- end }}
{{- if (default dict .root.Values.config.embeddings).apiKeySecret }}
- name: embeddings
  mountPath: /etc/storefence/embeddings
  readOnly: true
{{- end }}
{{- if and (eq .part "gateway") .root.Values.gateway.tls.secretName }}
- name: tls
  mountPath: /etc/storefence/tls
  readOnly: true
{{- end }}
{{- range $database := .root.Values.config.databases }}
{{- if or $database.caSecret $database.caConfigMap }}
- name: ca-{{ $database.name }}
  mountPath: /etc/storefence/databases/{{ $database.name }}/ca
  readOnly: true
{{- end }}
{{- if and (eq $.part "operator") $database.adminUrlSecret }}
- name: admin-{{ $database.name }}
  mountPath: /etc/storefence/databases/{{ $database.name }}/admin
  readOnly: true
{{- end }}
{{- end }}
{{- with (index .root.Values .part).extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "storefence.volumes" -}}
- name: config
  configMap:
    name: {{ include "storefence.partName" . }}
{{- if .root.Values.azure.caBundle.configMap }}
- name: trust
  configMap:
    name: {{ .root.Values.azure.caBundle.configMap }}
{{- end }}
{{- with (default dict .root.Values.config.embeddings).apiKeySecret }}
- name: embeddings
  secret:
    secretName: {{ .name }}
{{- end }}
{{- if and (eq .part "gateway") .root.Values.gateway.tls.secretName }}
- name: tls
  secret:
    secretName: {{ .root.Values.gateway.tls.secretName }}
    # 0440
    defaultMode: 288
{{- end }}
{{- range $database := .root.Values.config.databases }}
{{- if $database.caSecret }}
- name: ca-{{ $database.name }}
  secret:
    secretName: {{ $database.caSecret.name }}
{{- else if $database.caConfigMap }}
- name: ca-{{ $database.name }}
  configMap:
    name: {{ $database.caConfigMap.name }}
{{- end }}
{{- if and (eq $.part "operator") $database.adminUrlSecret }}
- name: admin-{{ $database.name }}
  secret:
    secretName: {{ $database.adminUrlSecret.name }}
    # 0440
    defaultMode: 288
{{- end }}
{{- end }}
{{- with (index .root.Values .part).extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "storefence.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
{{- end -}}

{{- /* Host of a URL, with its port. */ -}}
{{- define "storefence.urlHost" -}}
{{- regexReplaceAll "^https?://([^/]*).*$" . "${1}" -}}
{{- end -}}

{{- define "storefence.publicHostname" -}}
{{- regexReplaceAll ":[0-9]+$" (include "storefence.urlHost" .Values.gateway.publicUrl) "" -}}
{{- end -}}

{{- /* The gateway has no administrator's credentials and learns of no database but its trust root. */ -}}
{{- define "storefence.gatewayConfig" -}}
databases:
  {{- range .Values.config.databases }}
  - name: {{ .name | quote }}
    {{- with include "storefence.caFile" . }}
    caFile: {{ . | quote }}
    {{- end }}
  {{- end }}
keyVaults:
  {{- range .Values.config.keyVaults }}
  - name: {{ .name | quote }}
    url: {{ .url | quote }}
  {{- end }}
{{- with include "storefence.embeddingsConfig" . | trim }}
{{ . }}
{{- end }}
{{- end -}}

{{- define "storefence.embeddingsConfig" -}}
{{- with .Values.config.embeddings }}
embeddings:
  {{- toYaml (omit . "apiKeySecret") | nindent 2 }}
  {{- if .apiKeySecret }}
  apiKeyFile: /etc/storefence/embeddings/{{ .apiKeySecret.key }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "storefence.operatorEnv" -}}
{{ include "storefence.env" (dict "root" . "part" "operator") }}
- name: STOREFENCE_RESYNC
  value: {{ .Values.operator.resync | quote }}
- name: STOREFENCE_CONCURRENCY
  value: {{ int64 .Values.operator.concurrency | quote }}
- name: STOREFENCE_RETRY_BASE
  value: {{ .Values.operator.retryBase | quote }}
- name: STOREFENCE_RETRY_MAX
  value: {{ .Values.operator.retryMax | quote }}
- name: STOREFENCE_CALL_TIMEOUT
  value: {{ .Values.operator.callTimeout | quote }}
- name: STOREFENCE_EMBED_INTERVAL
  value: {{ .Values.operator.embedInterval | quote }}
- name: STOREFENCE_UNCLAIMED_GRACE
  value: {{ .Values.operator.unclaimedGrace | quote }}
- name: STOREFENCE_LEADER_ELECT
  value: "true"
- name: STOREFENCE_LEASE_DURATION
  value: {{ .Values.operator.leaseDuration | quote }}
{{- with .Values.operator.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "storefence.gatewayEnv" -}}
{{- $service := include "storefence.partName" (dict "root" . "part" "gateway") -}}
{{ include "storefence.env" (dict "root" . "part" "gateway") }}
- name: STOREFENCE_LISTEN
  value: 0.0.0.0:8080
- name: STOREFENCE_PUBLIC_URL
  value: {{ .Values.gateway.publicUrl | quote }}
- name: STOREFENCE_AUDIENCE
  value: {{ join "," .Values.gateway.audiences | quote }}
- name: STOREFENCE_SCOPE
  value: {{ join "," .Values.gateway.scopes | quote }}
- name: STOREFENCE_AUTHORITY
  value: {{ .Values.gateway.authority | quote }}
{{- with .Values.gateway.v1Issuer }}
- name: STOREFENCE_V1_ISSUER
  value: {{ . | quote }}
{{- end }}
{{- with .Values.gateway.authorizationServer }}
- name: STOREFENCE_AUTHORIZATION_SERVER
  value: {{ . | quote }}
{{- end }}
- name: STOREFENCE_JWKS_REFRESH
  value: {{ int64 .Values.gateway.jwksRefreshSeconds | quote }}
- name: STOREFENCE_TOKEN_CACHE
  value: {{ int64 .Values.gateway.tokenCache | quote }}
# Callers inside the cluster, helm test among them, name the Service.
- name: STOREFENCE_ALLOWED_HOST
  value: {{ join "," (concat (list $service (printf "%s.%s" $service .Release.Namespace) (printf "%s.%s.svc" $service .Release.Namespace)) .Values.gateway.allowedHosts) | quote }}
{{- with .Values.gateway.allowedOrigins }}
- name: STOREFENCE_ALLOWED_ORIGIN
  value: {{ join "," . | quote }}
{{- end }}
- name: STOREFENCE_POOL_PER_TENANT
  value: {{ int64 .Values.gateway.pool.perTenant | quote }}
- name: STOREFENCE_POOL_PER_PRINCIPAL
  value: {{ int64 .Values.gateway.pool.perPrincipal | quote }}
- name: STOREFENCE_POOL_LONG_PER_TENANT
  value: {{ int64 .Values.gateway.pool.longPerTenant | quote }}
- name: STOREFENCE_POOL_TOTAL
  value: {{ int64 .Values.gateway.pool.total | quote }}
- name: STOREFENCE_POOL_IDLE
  value: {{ int64 .Values.gateway.pool.idleSeconds | quote }}
- name: STOREFENCE_POOL_MAX_AGE
  value: {{ int64 .Values.gateway.pool.maxAgeSeconds | quote }}
- name: STOREFENCE_POOL_MAX_CALLS
  value: {{ int64 .Values.gateway.pool.maxCalls | quote }}
{{- if .Values.gateway.tls.secretName }}
- name: STOREFENCE_TLS_CERT
  value: /etc/storefence/tls/tls.crt
- name: STOREFENCE_TLS_KEY
  value: /etc/storefence/tls/tls.key
{{- end }}
- name: STOREFENCE_MAX_CONNECTIONS
  value: {{ int64 .Values.gateway.maxConnections | quote }}
- name: STOREFENCE_KEEP_ALIVE
  value: {{ int64 .Values.gateway.keepAliveSeconds | quote }}
- name: STOREFENCE_CACHE_BYTES
  value: {{ int64 .Values.gateway.cacheBytes | quote }}
- name: STOREFENCE_SLOW_AFTER
  value: {{ int64 .Values.gateway.slowAfterMilliseconds | quote }}
- name: STOREFENCE_ANSWER_TOKENS
  value: {{ int64 .Values.gateway.answerTokens | quote }}
{{- with .Values.gateway.redisUrlSecret }}
- name: STOREFENCE_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ .name }}
      key: {{ .key }}
{{- end }}
{{- with .Values.gateway.traces.otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
- name: STOREFENCE_TRACE_STATEMENTS
  value: {{ $.Values.gateway.traces.statements | quote }}
{{- end }}
- name: STOREFENCE_DRAIN
  value: {{ int64 .Values.gateway.drainSeconds | quote }}
- name: STOREFENCE_CLIENT_TIMEOUT
  value: {{ int64 .Values.gateway.clientTimeoutSeconds | quote }}
- name: STOREFENCE_AUDIT_FILE
  value: {{ .Values.gateway.auditFile | quote }}
{{- with .Values.gateway.tenantsDirectory }}
- name: STOREFENCE_TENANTS
  value: {{ . | quote }}
{{- end }}
{{- with .Values.gateway.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
