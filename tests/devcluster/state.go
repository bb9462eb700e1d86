package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

const (
	tierAuto         = "auto"
	tierNodes        = "nodes"
	tierControlPlane = "control-plane"
)

const (
	portGit              = 3080
	portGitHTTPS         = 3443
	portGitSSH           = 3022
	portEtcd             = 2379
	portEtcdPeer         = 2380
	portRegistry         = 5000
	portPrivateRegistry  = 5001
	portReadOnlyRegistry = 5002
	portAPIServer        = 6443
	portKubelet          = 10250 // and up, one a node
	portControllers      = 10357
	portScheduler        = 10359
	portFluxArtifacts    = 9090
	portFluxSources      = 9440
	portFluxKustomize    = 9441
	maxNodes             = 16
)

// state is what `up` and `status` print; tests read it.
type state struct {
	Tier             string            `json:"tier"`
	Slot             int               `json:"slot"`
	Address          string            `json:"address"`
	Dir              string            `json:"dir"`
	Kubeconfig       string            `json:"kubeconfig"`
	Kubectl          string            `json:"kubectl"`
	BinDir           string            `json:"binDir"`
	Registry         string            `json:"registry"`
	PrivateRegistry  privateRegistry   `json:"privateRegistry"`
	ReadOnlyRegistry hostOnly          `json:"readOnlyRegistry"`
	Git              gitState          `json:"git"`
	BuilderImage     string            `json:"builderImage"`
	Images           map[string]string `json:"images"`
	Nodes            []nodeState       `json:"nodes"`
	Pids             map[string]int    `json:"pids"`
}

type privateRegistry struct {
	Host     string `json:"host"`
	Username string `json:"username"`
	Password string `json:"password"`
}

type hostOnly struct {
	Host string `json:"host"`
}

type gitState struct {
	URL   string        `json:"url"`
	Root  string        `json:"root"`
	HTTPS gitHTTPSState `json:"https"`
	SSH   gitSSHState   `json:"ssh"`
}

type gitHTTPSState struct {
	URL      string `json:"url"`
	Username string `json:"username"`
	Password string `json:"password"`
	Token    string `json:"token"`
	CAFile   string `json:"caFile"`
}

type gitSSHState struct {
	URL          string `json:"url"`
	IdentityFile string `json:"identityFile"`
	KnownHosts   string `json:"knownHosts"`
}

type nodeState struct {
	Name string `json:"name"`
	Arch string `json:"arch"`
}

// rigFile remembers what a later command needs to clean up after a rig whose supervisor is gone.
type rigFile struct {
	Slot int    `json:"slot"`
	Tier string `json:"tier"`
}

func rigFilePath(dir string) string { return filepath.Join(dir, "rig.json") }

func readRigFile(dir string) (rigFile, bool, error) {
	var found rigFile
	data, err := os.ReadFile(rigFilePath(dir))
	if errors.Is(err, os.ErrNotExist) {
		return found, false, nil
	}
	if err != nil {
		return found, false, err
	}
	if err := json.Unmarshal(data, &found); err != nil {
		return found, false, fmt.Errorf("%s: %w; remove the file if no rig runs", rigFilePath(dir), err)
	}
	return found, true, nil
}

// Addresses of a slot. Pods and host must see the registry and the git server under one address, so the nodes tier
// uses one that pods can route to; what only the host may reach stays on loopback.
func nodesAddress(slot int) string     { return fmt.Sprintf("10.77.%d.1", slot) }
func loopbackAddress(slot int) string  { return fmt.Sprintf("127.77.%d.1", slot) }
func serviceCIDR(slot int) string      { return fmt.Sprintf("10.79.%d.0/24", slot) }
func serviceAddress(slot int) string   { return fmt.Sprintf("10.79.%d.1", slot) }
func podCIDR(slot, node int) string    { return fmt.Sprintf("10.78.%d.0/24", slot*maxNodes+node) }
func bridgeName(slot, node int) string { return fmt.Sprintf("%s%d", bridgePrefix(slot), node) }
func bridgePrefix(slot int) string     { return fmt.Sprintf("mdc%dn", slot) }

func hostPort(address string, port int) string {
	return net.JoinHostPort(address, strconv.Itoa(port))
}
