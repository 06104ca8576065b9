//go:build tools

// What scripts/kubernetes.sh builds for `make e2e-monitoring`.
package tools

import (
	_ "github.com/prometheus-operator/prometheus-operator/cmd/operator"
	_ "github.com/prometheus-operator/prometheus-operator/cmd/prometheus-config-reloader"
)
