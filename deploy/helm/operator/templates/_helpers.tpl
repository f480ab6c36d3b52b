{{/* Labels of everything in this chart. */}}
{{- define "kubenova.labels" -}}
app.kubernetes.io/name: kubenova-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: kubenova
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
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
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
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

{{/* The reference of an image; the argument has `root`, `image` and `tag`, which counts when the image has none. */}}
{{- define "kubenova.imageOf" -}}
{{- $name := .image.repository -}}
{{- with .image.registry | default .root.Values.global.imageRegistry -}}
{{- $name = printf "%s/%s" (trimSuffix "/" .) $name -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .tag .image.tag) -}}
{{- end -}}
{{- end }}

{{- define "kubenova.image" -}}
{{- include "kubenova.imageOf" (dict "root" . "image" .Values.image "tag" .Chart.AppVersion) -}}
{{- end }}

{{/* imagePullSecrets of a pod, if there are any. */}}
{{- define "kubenova.pullSecrets" -}}
{{- $secrets := .Values.imagePullSecrets -}}
{{- range .Values.global.imagePullSecrets -}}
{{- $secrets = append $secrets (dict "name" .) -}}
{{- end -}}
{{- with $secrets -}}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end }}

{{/* Where every pod of the Operator's image may run, and how it is named and resolved. */}}
{{- define "kubenova.podSettings" -}}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Variables that name the proxy, of every container of the Operator's image. */}}
{{- define "kubenova.proxyVariables" -}}
{{- with .Values.proxy.httpsProxy }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
{{- end }}
{{- if or .Values.proxy.httpsProxy .Values.proxy.noProxy }}
# Whatever reads these variables must not send the API server's requests to the proxy.
- name: NO_PROXY
  value: {{ join "," (concat (list "$(KUBERNETES_SERVICE_HOST)" "localhost" "127.0.0.1" "::1" ".svc" ".cluster.local") .Values.proxy.noProxy) | quote }}
{{- end }}
{{- end }}

{{/* A pod security context, without the user on OpenShift, which chooses it. The argument has `root` and `context`. */}}
{{- define "kubenova.podSecurityContext" -}}
{{- if .root.Capabilities.APIVersions.Has "security.openshift.io/v1" -}}
{{- toYaml (omit .context "runAsUser" "runAsGroup" "fsGroup") -}}
{{- else -}}
{{- toYaml .context -}}
{{- end -}}
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
  argocd.argoproj.io/sync-options: Delete=false
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

{{- define "kubenova.egress.dns" -}}
- ports:
    {{- range .Values.networkPolicy.egress.dnsPorts }}
    - {protocol: UDP, port: {{ . }}}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}

{{- define "kubenova.egress.manager" -}}
- to:
    {{- range .Values.networkPolicy.egress.managerCidrs }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  ports:
    {{- range .Values.networkPolicy.egress.managerPorts }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}

{{/*
A pod of the Operator's image that runs one of its commands to the end. The argument has `root`, `name`, `account`, `args`, and `sources` of
the volume at /etc/kubenova where it reads files.
*/}}
{{- define "kubenova.commandPod" -}}
{{- $root := .root -}}
serviceAccountName: {{ .account }}
{{- with include "kubenova.pullSecrets" $root }}
{{ . }}
{{- end }}
restartPolicy: Never
enableServiceLinks: false
securityContext:
  {{- include "kubenova.podSecurityContext" (dict "root" $root "context" $root.Values.podSecurityContext) | nindent 2 }}
containers:
  - name: {{ .name }}
    image: {{ include "kubenova.image" $root }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    command: [/usr/local/bin/kubenova-operator]
    args: {{ .args | toJson }}
    {{- with include "kubenova.proxyVariables" $root | trim }}
    env:
      {{- . | nindent 6 }}
    {{- end }}
    resources:
      requests: {cpu: 10m, memory: 32Mi}
      limits: {memory: 128Mi}
    securityContext:
      {{- toYaml $root.Values.securityContext | nindent 6 }}
    {{- if .sources }}
    volumeMounts:
      - {name: files, mountPath: /etc/kubenova, readOnly: true}
    {{- end }}
{{- with .sources }}
volumes:
  - name: files
    projected:
      sources:
        {{- toYaml . | nindent 8 }}
{{- end }}
{{- with include "kubenova.podSettings" $root | trim }}
{{ . }}
{{- end }}
{{- end }}

{{/* Annotations of what exists only while a hook runs. The argument has `on` and `weight`. */}}
{{- define "kubenova.hook" -}}
helm.sh/hook: {{ .on }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
