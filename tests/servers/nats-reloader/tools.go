//go:build tools

// Package tools pins what is built from this module; see tool.toml.
package tools

import _ "github.com/nats-io/nack/cmd/nats-server-config-reloader"
