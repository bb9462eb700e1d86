package main

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
)

const gitUser = "devcluster"

// gitConfig is what every server of the rig runs git with; a repository's own settings go before it.
const gitConfig = `[http]
	receivepack = true
[uploadpack]
	allowAnySHA1InWant = true
	allowFilter = true
[receive]
	# It would go on in the background, past the rig's end.
	autogc = false
[safe]
	# A test that runs as another user may have made the repository.
	directory = *
`

func gitEnv(config string) []string {
	return []string{"GIT_CONFIG_GLOBAL=" + config, "GIT_CONFIG_NOSYSTEM=1"}
}

// startGit serves every bare repository root/<name>.git over http for anyone, over https with a password or a token,
// and over ssh with a key.
func (r *rig) startGit() error {
	root := r.state.Git.Root
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	config := r.path("gitconfig")
	if err := writeFile(config, []byte(gitConfig), 0o644); err != nil {
		return err
	}
	handler, err := gitServer(root, config)
	if err != nil {
		return err
	}
	if err := r.serve(portGit, handler, nil); err != nil {
		return err
	}
	if err := r.pki.issue("git", "git", "", []net.IP{net.ParseIP(r.address)}); err != nil {
		return err
	}
	certificate, err := tls.LoadX509KeyPair(r.pki.crt("git"), r.pki.keyFile("git"))
	if err != nil {
		return err
	}
	https := gitHTTPSState{
		URL: "https://" + r.hostPort(portGitHTTPS), Username: gitUser, Password: rand.Text(), Token: rand.Text(),
		CAFile: r.pki.crt("ca"),
	}
	r.state.Git.HTTPS = https
	if err := r.serve(portGitHTTPS, authenticated(handler, https), &tls.Config{Certificates: []tls.Certificate{certificate}}); err != nil {
		return err
	}
	return r.startGitSSH(config)
}

// authenticated asks for the user's password, or the token in its place, or the token as a bearer.
func authenticated(handler http.Handler, want gitHTTPSState) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case user == want.Username && password == want.Password:
		case user == "x-access-token" && password == want.Token:
		case r.Header.Get("Authorization") == "Bearer "+want.Token:
		default:
			w.Header().Set("WWW-Authenticate", `Basic realm="devcluster"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	})
}

// gitServer serves every bare repository root/<name>.git over smart HTTP, for anyone to fetch and to push.
func gitServer(root, config string) (http.Handler, error) {
	git, err := exec.LookPath("git")
	if err != nil {
		return nil, fmt.Errorf("git server: %w; install the package git", err)
	}
	env := append([]string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"}, gitEnv(config)...)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cleanup, err := withLength(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		defer cleanup()
		requestEnv := env
		if protocol := r.Header.Get("Git-Protocol"); protocol != "" {
			requestEnv = append(requestEnv[:len(requestEnv):len(requestEnv)], "GIT_PROTOCOL="+protocol)
		}
		handler := cgi.Handler{Path: git, Args: []string{"http-backend"}, Dir: root, Env: requestEnv, InheritEnv: []string{"PATH", "HOME"}}
		handler.ServeHTTP(w, r)
	}), nil
}

// withLength spools a chunked body (git pushes over 1 MiB that way) into a file, since CGI knows only Content-Length.
func withLength(r *http.Request) (func(), error) {
	if r.ContentLength >= 0 {
		return func() {}, nil
	}
	spool, err := os.CreateTemp("", "devcluster-push-")
	if err != nil {
		return nil, err
	}
	cleanup := func() {
		spool.Close()
		os.Remove(spool.Name())
	}
	size, err := io.Copy(spool, r.Body)
	if err == nil {
		_, err = spool.Seek(0, io.SeekStart)
	}
	if err != nil {
		cleanup()
		return nil, err
	}
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(spool), size, nil
	return cleanup, nil
}
