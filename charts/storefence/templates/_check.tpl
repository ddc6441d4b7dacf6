{{- /* What every template begins with: values that were left empty have their defaults again, and what cannot be is refused.

Helm takes a key away whose value is null or that has nothing below it (`commonLabels:`), with its default. Maps and settings
get it back. Free maps, resources and lists of what to add are empty then, as their author says; a user or group that is null
is left to the platform. */ -}}
{{- define "storefence.begin" -}}
{{- include "storefence.restore" (dict "values" .Values "defaults" (.Files.Get "files/defaults.json" | fromJson)) -}}
{{- include "storefence.check" . -}}
{{- end -}}

{{- define "storefence.restore" -}}
{{- $values := .values -}}
{{- range $key, $default := .defaults -}}
{{- $emptied := has $key (list "resources" "labels" "seed" "podSecurityContext") -}}
{{- if kindIs "invalid" (index $values $key) -}}
{{- $_ := set $values $key (ternary (ternary list dict (kindIs "slice" $default)) $default $emptied) -}}
{{- else if and (kindIs "map" $default) (not $emptied) -}}
{{- include "storefence.restore" (dict "values" (index $values $key) "defaults" $default) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Values that have no default, and those that exclude one another: said in one sentence before anything is installed. */ -}}
{{- define "storefence.check" -}}
{{- if and .Values.devstack.enabled (ne .Values.profile "development") -}}{{- fail (printf "devstack.enabled is for development: it hands out tokens for anybody and forgets every row and secret; profile is %s" .Values.profile) -}}{{- end -}}
{{- if not .Values.gateway.publicUrl -}}{{- fail "gateway.publicUrl is not given: the URL that clients use, without /mcp" -}}{{- end -}}
{{- if not .Values.gateway.audiences -}}{{- fail "gateway.audiences is empty: the API's client ID, as it stands in aud, is expected" -}}{{- end -}}
{{- if not .Values.gateway.scopes -}}{{- fail "gateway.scopes is empty: the scope of the API, such as api://APP/Retail.Query, is expected" -}}{{- end -}}
{{- if not .Values.config.keyVaults -}}{{- fail "config.keyVaults is empty: tenants' credentials come from there" -}}{{- end -}}
{{- if not .Values.config.databases -}}{{- fail "config.databases is empty: RetailTenants refer to one by its name" -}}{{- end -}}
{{- range .Values.config.databases -}}
{{- if not (or .adminUrlSecret .adminUrlFile .adminUrlKeyVaultSecret) -}}{{- fail (printf "config.databases: %s has none of adminUrlSecret, adminUrlKeyVaultSecret and adminUrlFile" .name) -}}{{- end -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "storefence.fullname" .)) -}}{{- fail (printf "objects would be named %s-gateway, which no Service may be called: set fullnameOverride, small letters, digits and hyphens that begin with a letter" (include "storefence.fullname" .)) -}}{{- end -}}
{{- range $list := list "databases" "keyVaults" -}}
{{- $names := list -}}
{{- range index $.Values.config $list -}}
{{- if has .name $names -}}{{- fail (printf "config.%s has two of the name %s" $list .name) -}}{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end -}}
{{- range .Values.config.databases -}}
{{- $name := .name -}}
{{- with .adminUrlKeyVaultSecret -}}
{{- $known := list -}}
{{- range $.Values.config.keyVaults -}}{{- $known = append $known .name -}}{{- end -}}
{{- if not (has .keyVault $known) -}}{{- fail (printf "config.databases: adminUrlKeyVaultSecret of %s names the Key Vault %s, and config.keyVaults has none of that name" $name .keyVault) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.gateway.autoscaling -}}
{{- if and .enabled (gt (int64 .minReplicas) (int64 .maxReplicas)) -}}{{- fail (printf "gateway.autoscaling.minReplicas is %d, more than maxReplicas, which is %d" (int64 .minReplicas) (int64 .maxReplicas)) -}}{{- end -}}
{{- end -}}
{{- $host := include "storefence.publicHostname" . -}}
{{- $named := and (regexMatch "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$" $host) (not (regexMatch "^[0-9]+(\\.[0-9]+){3}$" $host)) -}}
{{- if and (not $named) .Values.gateway.ingress.enabled (not .Values.gateway.ingress.host) -}}{{- fail (printf "gateway.ingress.host is empty, and the host of gateway.publicUrl, %s, cannot be that of an Ingress: a name in small letters is expected, no IP address" $host) -}}{{- end -}}
{{- if and (not $named) .Values.gateway.httpRoute.enabled (not .Values.gateway.httpRoute.hostnames) -}}{{- fail (printf "gateway.httpRoute.hostnames is empty, and the host of gateway.publicUrl, %s, cannot be that of an HTTPRoute: a name in small letters is expected, no IP address" $host) -}}{{- end -}}
{{- $ports := list -}}
{{- $services := list (dict "key" "gateway.service" "type" .Values.gateway.service.type "port" .Values.gateway.service.nodePort) -}}
{{- if .Values.devstack.enabled -}}
{{- $services = append $services (dict "key" "devstack.service" "type" .Values.devstack.service.type "port" .Values.devstack.service.nodePort) -}}
{{- $services = append $services (dict "key" "devstack.signIn" "type" .Values.devstack.service.type "port" .Values.devstack.signIn.nodePort) -}}
{{- end -}}
{{- range $services -}}
{{- if and (eq .type "NodePort") .port -}}
{{- if has (int64 .port) $ports -}}{{- fail (printf "%s.nodePort is %d, which another Service of this release has" .key (int64 .port)) -}}{{- end -}}
{{- $ports = append $ports (int64 .port) -}}
{{- end -}}
{{- end -}}
{{- range $policy := .Values.networkPolicy.extraEgress -}}
{{- range .ports -}}
{{- if .endPort -}}{{- if lt (int64 .endPort) (int64 .port) -}}{{- fail (printf "networkPolicy.extraEgress: endPort %d is less than port %d" (int64 .endPort) (int64 .port)) -}}{{- end -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- range $part := list "operator" "gateway" -}}
{{- include "storefence.checkPart" (dict "root" $ "part" $part) -}}
{{- include "storefence.checkResources" (dict "key" (printf "%s.resources" $part) "resources" (index $.Values $part "resources")) -}}
{{- end -}}
{{- include "storefence.checkResources" (dict "key" "devstack.resources" "resources" .Values.devstack.resources) -}}
{{- include "storefence.checkResources" (dict "key" "devstack.postgres.resources" "resources" .Values.devstack.postgres.resources) -}}
{{- end -}}

{{- /* What a pod may have once: volumes and variables of a name, mounts of a path; and no mount without its volume. */ -}}
{{- define "storefence.checkPart" -}}
{{- $volumes := list -}}
{{- range include "storefence.volumes" . | fromYamlArray -}}
{{- if has .name $volumes -}}{{- fail (printf "%s.extraVolumes: there is a volume %s already" $.part .name) -}}{{- end -}}
{{- $volumes = append $volumes .name -}}
{{- end -}}
{{- $paths := list -}}
{{- range include "storefence.mounts" . | fromYamlArray -}}
{{- if has .mountPath $paths -}}{{- fail (printf "%s.extraVolumeMounts: something is mounted at %s already" $.part .mountPath) -}}{{- end -}}
{{- if not (has .name $volumes) -}}{{- fail (printf "%s.extraVolumeMounts: there is no volume %s; %s.extraVolumes brings it" $.part .name $.part) -}}{{- end -}}
{{- $paths = append $paths .mountPath -}}
{{- end -}}
{{- $variables := list -}}
{{- range include (printf "storefence.%sEnv" .part) .root | fromYamlArray -}}
{{- if has .name $variables -}}{{- fail (printf "%s.extraEnv: %s is set already; the value that sets it stands in the chart's README" $.part .name) -}}{{- end -}}
{{- $variables = append $variables .name -}}
{{- end -}}
{{- end -}}

{{- define "storefence.checkResources" -}}
{{- $limits := default dict .resources.limits -}}
{{- range $name, $request := default dict .resources.requests -}}
{{- if hasKey $limits $name -}}
{{- $limit := index $limits $name -}}
{{- if gt (include "storefence.quantity" $request | float64) (include "storefence.quantity" $limit | float64) -}}{{- fail (printf "%s: requests.%s is %v, more than limits.%s, which is %v" $.key $name $request $name $limit) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* A quantity of Kubernetes, as a plain number. */ -}}
{{- define "storefence.quantity" -}}
{{- $text := toString . -}}
{{- $suffix := regexFind "[KMGTPE]i$|[numkMGTPE]$" $text -}}
{{- $factors := dict "n" 1e-9 "u" 1e-6 "m" 1e-3 "" 1.0 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- printf "%f" (mulf (trimSuffix $suffix $text | float64) (index $factors $suffix)) -}}
{{- end -}}
