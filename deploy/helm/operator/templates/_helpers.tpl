{{/* Labels of everything in this chart. */}}
{{- define "kubenova.labels" -}}
app.kubernetes.io/name: kubenova-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: kubenova
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "kubenova.selector" -}}
app.kubernetes.io/name: kubenova-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The leaf node is a workload of its own. */}}
{{- define "kubenova.leaf.labels" -}}
app.kubernetes.io/name: kubenova-leaf
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: kubenova
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "kubenova.leaf.selector" -}}
app.kubernetes.io/name: kubenova-leaf
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Where the Operator finds the leaf node; empty = there is none. */}}
{{- define "kubenova.leaf.url" -}}
{{- if .Values.leaf.enabled -}}
tls://kubenova-leaf.{{ .Release.Namespace }}.svc:4222
{{- else -}}
{{ .Values.leaf.url }}
{{- end -}}
{{- end }}

{{/*
What a role or a policy was written for. The Operator compares these with the versions it has to install and
reports RBACUpgradeNeeded when they differ; it writes neither roles nor policies itself.
*/}}
{{- define "kubenova.for.capsule" -}}capsule-0.14.0{{- end }}
{{- define "kubenova.for.capsuleProxy" -}}capsule-proxy-0.14.0{{- end }}
{{- define "kubenova.for.kubevela" -}}kubevela-1.10.9{{- end }}
{{- define "kubenova.for.kubenova" -}}kubenova-{{ .Chart.AppVersion }}{{- end }}

{{/* User names that the policies compare with. */}}
{{- define "kubenova.user.operator" -}}system:serviceaccount:{{ .Release.Namespace }}:kubenova-operator{{- end }}
{{- define "kubenova.user.capsule" -}}system:serviceaccount:capsule-system:capsule{{- end }}
{{- define "kubenova.user.kubevela" -}}system:serviceaccount:vela-system:kubevela-vela-core{{- end }}
{{- define "kubenova.user.capsuleProxy" -}}system:serviceaccount:capsule-proxy-system:capsule-proxy{{- end }}

{{/*
The users that the policies named kubenova-bound-… hold: the Operator, and the components whose roles this chart has. A
component that came by other means has rights that its own administrator gave it.
*/}}
{{- define "kubenova.boundUsers" -}}
{{- $users := list (include "kubenova.user.operator" .) -}}
{{- if .Values.rbac.capsule }}{{ $users = append $users (include "kubenova.user.capsule" .) }}{{ end -}}
{{- if .Values.rbac.capsuleProxy }}{{ $users = append $users (include "kubenova.user.capsuleProxy" .) }}{{ end -}}
{{- if .Values.rbac.kubevela }}{{ $users = append $users (include "kubenova.user.kubevela" .) }}{{ end -}}
{{- include "kubenova.cel" $users -}}
{{- end }}

{{/* A list of texts, as CEL writes them. */}}
{{- define "kubenova.cel" -}}
[{{- range $index, $text := . }}{{ if $index }}, {{ end }}'{{ $text | replace "\\" "\\\\" | replace "'" "\\'" }}'{{ end -}}]
{{- end }}

{{/* Whether the user may change what belongs to tenants, as CEL: the site's administrators. */}}
{{- define "kubenova.isAdministrator" -}}
request.userInfo.username in {{ include "kubenova.cel" .Values.tenants.administrators.users }} ||
(has(request.userInfo.groups) && request.userInfo.groups.exists(group, group in {{ include "kubenova.cel" .Values.tenants.administrators.groups }}))
{{- end }}

{{/* The tenant of a namespace, as CEL. A policy fixes the names; the labels could be taken away. */}}
{{- define "kubenova.tenantOf" -}}
{{ . }}.substring(0, {{ . }}.lastIndexOf('-'))
{{- end }}

{{/* Namespaces of our tenants. Those of the site's own Capsule tenants are none of ours. */}}
{{- define "kubenova.tenantSelector" -}}
namespaceSelector:
  matchExpressions:
    - {key: kubenova.io/tenant-id, operator: Exists}
{{- end }}

{{/* Domains whose labels and annotations the platform alone writes, as a regular expression of a key; schema/src/applications.rs has the list. */}}
{{- define "kubenova.reservedKey" -}}
'^([^/]+[.])?(kubenova[.]io|oam[.]dev|projectcapsule[.]dev|capsule[.]clastix[.]io)/'
{{- end }}

{{/* The reference of an image; the argument has `image` and `tag`, which counts when the image has none. */}}
{{- define "kubenova.imageOf" -}}
{{- $name := .image.repository -}}
{{- if .image.registry -}}
{{- $name = printf "%s/%s" (trimSuffix "/" .image.registry) .image.repository -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .tag .image.tag) -}}
{{- end -}}
{{- end }}

{{- define "kubenova.image" -}}
{{- include "kubenova.imageOf" (dict "image" .Values.image "tag" .Chart.AppVersion) -}}
{{- end }}

{{- define "kubenova.tokenSecret" -}}
{{- default "kubenova-enrollment" .Values.enrollment.existingSecret -}}
{{- end }}

{{/* Metadata of a role or policy that outlives the release: tenants stay isolated without the Operator. */}}
{{- define "kubenova.keptMetadata" -}}
labels:
  {{- include "kubenova.labels" .root | nindent 2 }}
  kubenova.io/for: {{ .for }}
annotations:
  helm.sh/resource-policy: keep
{{- end }}

{{/* What owner and reader of a tenant may see, and so what Capsule Proxy may list for them. */}}
{{- define "kubenova.readRules" -}}
- apiGroups: [""]
  resources:
    - namespaces
    - pods
    - pods/log
    - pods/status
    - services
    - services/status
    - endpoints
    - configmaps
    - persistentvolumeclaims
    - persistentvolumeclaims/status
    - serviceaccounts
    - resourcequotas
    - resourcequotas/status
    - limitranges
    - events
    - replicationcontrollers
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [get, list, watch]
- apiGroups: [apps]
  resources:
    - deployments
    - deployments/status
    - deployments/scale
    - replicasets
    - replicasets/status
    - statefulsets
    - statefulsets/status
    - statefulsets/scale
    - daemonsets
    - daemonsets/status
    - controllerrevisions
  verbs: [get, list, watch]
- apiGroups: [batch]
  resources: [jobs, jobs/status, cronjobs, cronjobs/status]
  verbs: [get, list, watch]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers, horizontalpodautoscalers/status]
  verbs: [get, list, watch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets, poddisruptionbudgets/status]
  verbs: [get, list, watch]
- apiGroups: [networking.k8s.io]
  resources: [ingresses, ingresses/status, networkpolicies]
  verbs: [get, list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch]
- apiGroups: [metrics.k8s.io]
  resources: [pods]
  verbs: [get, list]
- apiGroups: [core.oam.dev]
  resources: [applications, applications/status, applicationrevisions]
  verbs: [get, list, watch]
{{- end }}

{{- define "kubenova.policyBinding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  {{- include "kubenova.keptMetadata" (dict "root" .root "for" (include "kubenova.for.kubenova" .root)) | nindent 2 }}
spec:
  policyName: {{ .name }}
  validationActions: [Deny, Audit]
{{- end }}
