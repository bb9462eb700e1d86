{{/* The names of objects, as charts have them. */}}
{{- define "multiarch.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "multiarch.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "multiarch.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "multiarch.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "multiarch.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "multiarch.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* What objects are told apart by; these must never change. */}}
{{- define "multiarch.selectorLabels" -}}
app.kubernetes.io/name: {{ include "multiarch.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end }}

{{/* Of every object, whatever the release is called. */}}
{{- define "multiarch.chartLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: multiarch-operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* One set of labels of several, given as a list after the context. A key counts where it comes first. */}}
{{- define "multiarch.merged" -}}
{{- $labels := dict }}
{{- range rest . }}
{{- $labels = merge $labels (. | default dict) }}
{{- end }}
{{- $labels = merge $labels ((first .).Values.commonLabels | default dict) }}
{{- toYaml $labels }}
{{- end }}

{{- define "multiarch.labels" -}}
{{- include "multiarch.labelsWith" (list . dict) }}
{{- end }}

{{/* The labels of an object that has some of its own: context, labels. */}}
{{- define "multiarch.labelsWith" -}}
{{- $context := first . }}
{{- $selector := include "multiarch.selectorLabels" $context | fromYaml }}
{{- $chart := include "multiarch.chartLabels" $context | fromYaml }}
{{- include "multiarch.merged" (list $context $selector $chart (last .)) }}
{{- end }}

{{/* The labels of the operator's pods. */}}
{{- define "multiarch.podLabels" -}}
{{- $selector := include "multiarch.selectorLabels" . | fromYaml }}
{{- include "multiarch.merged" (list . $selector (dict "app.kubernetes.io/part-of" "multiarch-operator") .Values.podLabels) }}
{{- end }}

{{/* The labels of another part of the chart than the operator: context, component. */}}
{{- define "multiarch.componentLabels" -}}
{{- $context := first . }}
{{- $selector := include "multiarch.selectorLabels" $context | fromYaml }}
{{- $chart := include "multiarch.chartLabels" $context | fromYaml }}
{{- include "multiarch.merged" (list $context (dict "app.kubernetes.io/component" (last .)) $selector $chart) }}
{{- end }}

{{- define "multiarch.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The files of settings that the operator reads when it starts, as the data of a ConfigMap; empty where there are none. */}}
{{- define "multiarch.settings" -}}
{{- with .Values.builds }}
builds.yaml: |
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.policies }}
policies.yaml: |
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.registries }}
registries.yaml: |
  {{- dict "registries" . | toYaml | nindent 2 }}
{{- end }}
{{- end }}

{{- define "multiarch.args" -}}
- operator
{{- with .Values.watchNamespace }}
- --namespace={{ . }}
{{- end }}
- --listen=0.0.0.0:8080
{{- if .Values.leaderElection.enabled }}
- --lease-name={{ include "multiarch.fullname" . }}
{{- else }}
- --leader-election=false
{{- end }}
- --shutdown-grace={{ sub (int .Values.terminationGracePeriodSeconds) 15 }}
- --builder-image={{ .Values.builder.image }}
{{- if .Values.builds }}
- --builds=/etc/multiarch/settings/builds.yaml
{{- end }}
{{- if .Values.policies }}
- --policies=/etc/multiarch/settings/policies.yaml
{{- end }}
{{- if .Values.registries }}
- --registries=/etc/multiarch/settings/registries.yaml
{{- end }}
- --log-format={{ .Values.logging.format }}
- --log-filter-file=/etc/multiarch/logging/filter
{{- with .Values.tracing.endpoint }}
- --otlp-endpoint={{ . }}
{{- end }}
{{- if ne .Values.metrics.authorization "None" }}
- --metrics-authorization={{ .Values.metrics.authorization }}
{{- end }}
{{- if .Values.metrics.tls.secretName }}
- --tls-certificate=/etc/multiarch/tls/tls.crt
- --tls-key=/etc/multiarch/tls/tls.key
{{- end }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- define "multiarch.env" -}}
{{- with .Values.proxy }}
{{- with .httpProxy }}
- {name: HTTP_PROXY, value: {{ . | quote }}}
{{- end }}
{{- with .httpsProxy }}
- {name: HTTPS_PROXY, value: {{ . | quote }}}
{{- end }}
{{- if or .httpProxy .httpsProxy .noProxy }}
- {name: NO_PROXY, value: {{ list "$(KUBERNETES_SERVICE_HOST)" .noProxy | compact | join "," | quote }}}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Of the operator's own pods, unless they say of which; replicas are spread over nodes where nothing is said. */}}
{{- define "multiarch.topologySpreadConstraints" -}}
{{- $ours := dict "matchLabels" (include "multiarch.selectorLabels" . | fromYaml) }}
{{- $constraints := .Values.topologySpreadConstraints }}
{{- if and (not $constraints) (gt (int .Values.replicaCount) 1) }}
{{- $constraints = list (dict "maxSkew" 1 "topologyKey" "kubernetes.io/hostname" "whenUnsatisfiable" "ScheduleAnyway") }}
{{- end }}
{{- range $constraints }}
{{- if hasKey . "labelSelector" }}
- {{ toJson . }}
{{- else }}
- {{ merge (dict "labelSelector" $ours) . | toJson }}
{{- end }}
{{- end }}
{{- end }}

{{- define "multiarch.scheme" -}}
{{- ternary "HTTPS" "HTTP" (not (empty .Values.metrics.tls.secretName)) }}
{{- end }}

{{/* Values that no cluster could make sense of, told before anything is applied. */}}
{{- define "multiarch.validate" -}}
{{- if and (not .Values.leaderElection.enabled) (gt (int .Values.replicaCount) 1) }}
{{- fail "replicaCount: without leaderElection.enabled there may be one replica only; two would work on the same images" }}
{{- end }}
{{- if lt (int .Values.terminationGracePeriodSeconds) 20 }}
{{- fail "terminationGracePeriodSeconds: it must be 20 or more; 15 of them are for what comes after the writes under way" }}
{{- end }}
{{- if not (regexMatch "^[a-z]" (include "multiarch.fullname" .)) }}
{{- fail (printf "fullnameOverride: the names of objects would begin with %s, and that of a Service must begin with a letter; write a name" (include "multiarch.fullname" .)) }}
{{- end }}
{{- $names := list }}
{{- range .Values.certificates }}
{{- if has .name $names }}
{{- fail (printf "certificates: two are named %s; each is mounted below its name, so give them different ones" .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- if .Values.watchNamespace }}
{{- if and .Values.rbac.create (eq .Values.metrics.authorization "Kubernetes") }}
{{- fail "metrics.authorization: Kubernetes asks the API server by permissions that only a ClusterRole can give, and watchNamespace means Roles only; write None, or set rbac.create to false and give the permissions yourself (docs/rbac.md)" }}
{{- end }}
{{- if or .Values.rbac.aggregateToView .Values.rbac.aggregateToEdit }}
{{- fail "rbac: aggregateToView and aggregateToEdit make ClusterRoles, and watchNamespace means Roles only" }}
{{- end }}
{{- if or .Values.admission.advice.enabled .Values.admission.repositories.enabled }}
{{- fail "admission: its policies are of the whole cluster, and watchNamespace is for a namespace's own operator; install config/admission instead" }}
{{- end }}
{{- end }}
{{- if and .Values.admission.advice.enabled (semverCompare "<1.34.0-0" .Capabilities.KubeVersion.Version) }}
{{- fail (printf "admission.advice.enabled: its expressions need Kubernetes 1.34, and this is %s" .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- if and .Values.admission.repositories.enabled (not (dig "publish" list (.Values.policies | default dict))) }}
{{- fail "admission.repositories.enabled: policies.publish has no rule, so everything would be refused; write one" }}
{{- end }}
{{- if and .Values.podDisruptionBudget.enabled (kindIs "invalid" .Values.podDisruptionBudget.minAvailable) (kindIs "invalid" .Values.podDisruptionBudget.maxUnavailable) }}
{{- fail "podDisruptionBudget: it needs minAvailable or maxUnavailable" }}
{{- end }}
{{- if and .Values.podDisruptionBudget.enabled (not (kindIs "invalid" .Values.podDisruptionBudget.minAvailable)) (not (kindIs "invalid" .Values.podDisruptionBudget.maxUnavailable)) }}
{{- fail "podDisruptionBudget: minAvailable and maxUnavailable exclude each other; set minAvailable to null" }}
{{- end }}
{{- if and .Values.metrics.readers (ne .Values.metrics.authorization "Kubernetes") }}
{{- fail "metrics.readers: without metrics.authorization: Kubernetes everybody may read; remove one of the two" }}
{{- end }}
{{- end }}
