package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
)

// gitServer serves every bare repository root/<name>.git over smart HTTP, for anyone to fetch and to push.
func gitServer(root string) (http.Handler, error) {
	git, err := exec.LookPath("git")
	if err != nil {
		return nil, fmt.Errorf("git server: %w; install the package git", err)
	}
	env := []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"}
	config := [][2]string{
		{"http.receivepack", "true"},
		{"uploadpack.allowAnySHA1InWant", "true"},
		{"uploadpack.allowFilter", "true"},
		// It would go on in the background, past the rig's end.
		{"receive.autogc", "false"},
		// A test that runs as another user may have made the repository.
		{"safe.directory", "*"},
	}
	env = append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(config)))
	for i, entry := range config {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, entry[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, entry[1]))
	}
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
