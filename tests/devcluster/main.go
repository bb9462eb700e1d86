// Command devcluster runs a real Kubernetes cluster on one machine for the tests and demos of multiarch-operator.
//
//	devcluster up        build what is missing, start everything, print the state as JSON
//	  client (up.go) ──▶ supervisor (supervisor.go), a daemon that owns every process
//	                       ├─ etcd, kube-apiserver, kube-controller-manager, kube-scheduler (controlplane.go)
//	                       ├─ two registries, a read-only proxy (registry.go), git servers (git.go, gitssh.go)
//	                       ├─ the controllers of Flux, if they are asked for (flux.go)
//	                       └─ one process namespace a node (nodeinit.go) with its containerd and kubelet
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

const usage = `devcluster runs a real Kubernetes cluster on this machine.

  devcluster up [--dir DIR] [--tier auto|nodes|control-plane] [--owner-pid PID] [-v]
  devcluster down [--dir DIR]
  devcluster status [--dir DIR] [-o json]
  devcluster node add ARCH [--reserved-for NAME] [--in-place-of NODE] [--dir DIR]
  devcluster node remove NAME [--dir DIR]
  devcluster deps [--install]
  devcluster build [--dir DIR] [--tier auto|nodes|control-plane] [--all]
  devcluster tool health|helm|kubeconform|promql|source-controller|kustomize-controller [--dir DIR]
  devcluster flux up [--dir DIR]
  devcluster image toolchain|vendor [--dir DIR]
`

// errQuiet ends the program with status 1 where everything has been said already.
var errQuiet = errors.New("")

func main() {
	if err := run(os.Args[1:]); err != nil {
		if !errors.Is(err, errQuiet) {
			fmt.Fprintln(os.Stderr, "devcluster:", err)
		}
		os.Exit(1)
	}
}

type options struct {
	dir       string
	tier      string
	ownerPID  int
	verbose   bool
	output    string
	reserved  string
	inPlaceOf string
	install   bool
	all       bool
	args      []string
}

func run(args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return errQuiet
	}
	command, opts, err := parse(args)
	if err != nil {
		return err
	}
	switch command {
	case "up":
		return up(opts)
	case "down":
		return down(opts)
	case "status":
		return status(opts)
	case "node add", "node remove", "tool", "image":
		if len(opts.args) != 1 {
			return fmt.Errorf("%s wants exactly one argument\n%s", command, usage)
		}
		switch command {
		case "tool":
			return printed(prepareExtra(opts, opts.args[0]))
		case "image":
			return printed(pushStage(opts, opts.args[0]))
		}
		return changeNode(opts, command, opts.args[0])
	case "flux up":
		return fluxUp(opts)
	case "deps":
		return deps(opts.install)
	case "build":
		_, err := prepare(opts, newProgress(os.Stderr, opts.verbose))
		return err
	case "supervise":
		return supervise(opts)
	case "node-init":
		return nodeInit(opts)
	case "help":
		fmt.Print(usage)
		return nil
	}
	return fmt.Errorf("unknown command %q\n%s", command, usage)
}

// parse reads `command [sub-command]` with flags before, between or after the arguments.
func parse(args []string) (string, options, error) {
	var opts options
	flags := flag.NewFlagSet("devcluster", flag.ContinueOnError)
	flags.SetOutput(os.Stderr)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	flags.StringVar(&opts.dir, "dir", "", "directory of the rig (default target/devcluster of the checkout)")
	flags.StringVar(&opts.tier, "tier", tierAuto, "auto, nodes or control-plane")
	flags.IntVar(&opts.ownerPID, "owner-pid", 0, "tear the rig down when this process has exited")
	flags.BoolVar(&opts.verbose, "v", false, "print what is run")
	flags.StringVar(&opts.output, "o", "", "json")
	flags.StringVar(&opts.inPlaceOf, "in-place-of", "", "the name of a node that was removed, which this one takes over")
	flags.StringVar(&opts.reserved, "reserved-for", "", "only pods that tolerate the taint `devcluster/reserved-for` of this value run on the node")
	flags.BoolVar(&opts.all, "all", false, "build also what only some tests need")
	flags.BoolVar(&opts.install, "install", false, "install what is missing")

	var words []string
	for rest := args; len(rest) > 0; {
		if !strings.HasPrefix(rest[0], "-") {
			words, rest = append(words, rest[0]), rest[1:]
			continue
		}
		if err := flags.Parse(rest); err != nil {
			return "", opts, errQuiet
		}
		rest = flags.Args()
	}
	if len(words) == 0 {
		return "help", opts, nil
	}
	command := words[0]
	words = words[1:]
	if (command == "node" || command == "flux") && len(words) > 0 {
		command += " " + words[0]
		words = words[1:]
	}
	switch opts.tier {
	case tierAuto, tierNodes, tierControlPlane:
	default:
		return "", opts, fmt.Errorf("--tier is auto, nodes or control-plane, not %q", opts.tier)
	}
	opts.args = words
	if command == "deps" || command == "node-init" || command == "help" {
		return command, opts, nil // they have no rig of their own to look for
	}
	var err error
	opts.dir, err = rigDir(opts.dir)
	return command, opts, err
}

func printed(line string, err error) error {
	if err == nil {
		fmt.Println(line)
	}
	return err
}

func printJSON(v any) error {
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
