{{/* What the operator may do in the namespaces that it looks after; docs/rbac.md has the reason of every rule. */}}
{{- define "multiarch.rules.namespaced" -}}
- {apiGroups: [multiarch.dev], resources: [multiarchimages], verbs: [get, list, watch, patch]}
- {apiGroups: [multiarch.dev], resources: [multiarchimages/status], verbs: [patch]}
- {apiGroups: [batch], resources: [jobs], verbs: [get, list, watch, create, delete]}
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch, create, delete]}
- {apiGroups: [""], resources: [configmaps], verbs: [get]}
- {apiGroups: [""], resources: [persistentvolumeclaims], verbs: [get, create]}
- {apiGroups: [""], resources: [secrets], verbs: [get, create, patch]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
{{- end }}

{{/* What it may do besides, where it looks after all namespaces. */}}
{{- define "multiarch.rules.cluster" -}}
- {apiGroups: [""], resources: [nodes], verbs: [get, list, watch]}
{{- end }}

{{/* In the namespace that it runs in: of Leases its own, and that there may be one. */}}
{{- define "multiarch.rules.leaderElection" -}}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create]}
- {apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [{{ include "multiarch.fullname" . }}], verbs: [get, update]}
{{- end }}

{{/* With metrics.authorization: Kubernetes. */}}
{{- define "multiarch.rules.metricsAuthorization" -}}
- {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
- {apiGroups: [authorization.k8s.io], resources: [subjectaccessreviews], verbs: [create]}
{{- end }}
