//go:build tools

// Package tools pins what is built from this module; see tool.toml.
package tools

import _ "helm.sh/helm/v3/cmd/helm"
