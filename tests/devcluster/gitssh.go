package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// gitOldUser gets what servers answer that take no variables from clients: version 0 of the protocol.
const gitOldUser = "old"

// gitSSH is an ssh server that runs nothing but git's two programs.
type gitSSH struct {
	root, git string
	env       []string
	config    *ssh.ServerConfig
}

// startGitSSH serves the repositories over ssh; state.git.ssh.identityFile lies beside keys of other types, which are
// accepted as well.
func (r *rig) startGitSSH(config string) error {
	git, err := exec.LookPath("git")
	if err != nil {
		return err
	}
	accepted := map[string]bool{}
	server := &gitSSH{root: r.state.Git.Root, git: git, env: gitEnv(config), config: &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if accepted[string(key.Marshal())] {
				return nil, nil
			}
			return nil, fmt.Errorf("unknown key %s", ssh.FingerprintSHA256(key))
		},
	}}
	hostKeys, err := keys()
	if err != nil {
		return err
	}
	clientKeys, err := keys()
	if err != nil {
		return err
	}
	address := r.hostPort(portGitSSH)
	var known []string
	for _, key := range hostKeys {
		signer, err := ssh.NewSignerFromKey(key)
		if err != nil {
			return err
		}
		server.config.AddHostKey(signer)
		known = append(known, knownhosts.Line([]string{knownhosts.Normalize(address)}, signer.PublicKey()))
	}
	for name, key := range clientKeys {
		public, err := ssh.NewPublicKey(key.Public())
		if err != nil {
			return err
		}
		accepted[string(public.Marshal())] = true
		block, err := privatePEM(key)
		if err != nil {
			return err
		}
		if err := writeFile(r.path("git-ssh", "id_"+name), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	r.closers = append(r.closers, func() { listener.Close() })
	r.state.Git.SSH = gitSSHState{
		URL: "ssh://git@" + address, IdentityFile: r.path("git-ssh", "id_ed25519"),
		KnownHosts: strings.Join(known, "\n") + "\n",
	}
	go server.serve(listener)
	return nil
}

func keys() (map[string]crypto.Signer, error) {
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	elliptical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	old, err := rsa.GenerateKey(rand.Reader, 2048)
	return map[string]crypto.Signer{"ed25519": edwards, "ecdsa": elliptical, "rsa": old}, err
}

// privatePEM writes each type of key as the tools of its time do.
func privatePEM(key crypto.Signer) (*pem.Block, error) {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}, nil
	case *ecdsa.PrivateKey:
		der, err := x509.MarshalECPrivateKey(key)
		return &pem.Block{Type: "EC PRIVATE KEY", Bytes: der}, err
	}
	return ssh.MarshalPrivateKey(key, "devcluster")
}

func (g *gitSSH) serve(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		go g.talk(connection)
	}
}

func (g *gitSSH) talk(connection net.Conn) {
	defer connection.Close()
	client, channels, requests, err := ssh.NewServerConn(connection, g.config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for wanted := range channels {
		if wanted.ChannelType() != "session" {
			wanted.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		channel, requests, err := wanted.Accept()
		if err != nil {
			return
		}
		go g.session(channel, requests, client.User() != gitOldUser)
	}
}

func (g *gitSSH) session(channel ssh.Channel, requests <-chan *ssh.Request, takesVersion bool) {
	defer channel.Close()
	env := g.env
	for request := range requests {
		switch request.Type {
		case "env":
			var variable struct{ Name, Value string }
			known := takesVersion && ssh.Unmarshal(request.Payload, &variable) == nil && variable.Name == "GIT_PROTOCOL"
			if known {
				env = append(env[:len(env):len(env)], "GIT_PROTOCOL="+variable.Value)
			}
			request.Reply(known, nil)
		case "exec":
			var line struct{ Command string }
			ssh.Unmarshal(request.Payload, &line)
			cmd, err := g.command(line.Command)
			request.Reply(err == nil, nil)
			if err != nil {
				return
			}
			go ssh.DiscardRequests(requests)
			cmd.Env = append(cmd.Environ(), env...)
			channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{runGit(cmd, channel)}))
			return
		default:
			request.Reply(false, nil)
		}
	}
}

// command is `git-upload-pack '/web.git'` as a program, below the root and nowhere else.
func (g *gitSSH) command(line string) (*exec.Cmd, error) {
	program, quoted, _ := strings.Cut(line, " ")
	if program != "git-upload-pack" && program != "git-receive-pack" {
		return nil, fmt.Errorf("%s is not git", program)
	}
	name := path.Clean("/" + strings.Trim(quoted, "'"))
	return exec.Command(g.git, strings.TrimPrefix(program, "git-"), filepath.Join(g.root, name)), nil
}

func runGit(cmd *exec.Cmd, channel ssh.Channel) uint32 {
	in, err := cmd.StdinPipe()
	if err != nil {
		return 1
	}
	cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
	if err := cmd.Start(); err != nil {
		return 1
	}
	// Not as cmd.Stdin: Wait would wait for the client to say more.
	go func() {
		io.Copy(in, channel)
		in.Close()
	}()
	if err := cmd.Wait(); err != nil {
		return uint32(max(cmd.ProcessState.ExitCode(), 1))
	}
	return 0
}
