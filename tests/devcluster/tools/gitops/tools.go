//go:build tools

// Package tools names the commands that the rig builds from this module.
package tools

import (
	_ "github.com/fluxcd/kustomize-controller"
	_ "github.com/fluxcd/source-controller"
	_ "helm.sh/helm/v4/cmd/helm"
)
