//go:build tools

// Package tools names the commands that the rig builds from this module.
package tools

import _ "github.com/yannh/kubeconform/cmd/kubeconform"
