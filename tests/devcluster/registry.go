package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"

	"golang.org/x/crypto/bcrypt"
)

const registryUser = "devcluster"

// registryConfig is the configuration of one distribution registry. It is JSON, which is YAML too.
func registryConfig(dir, addr, htpasswd string) ([]byte, error) {
	config := map[string]any{
		"version": 0.1,
		"log":     map[string]any{"level": "info", "accesslog": map[string]any{"disabled": false}},
		"storage": map[string]any{
			"filesystem":  map[string]any{"rootdirectory": dir, "maxthreads": 100},
			"delete":      map[string]any{"enabled": true},
			"maintenance": map[string]any{"uploadpurging": map[string]any{"enabled": false}},
		},
		"http": map[string]any{"addr": addr, "secret": rand.Text()},
	}
	if htpasswd != "" {
		config["auth"] = map[string]any{"htpasswd": map[string]any{"realm": "devcluster", "path": htpasswd}}
	}
	return json.MarshalIndent(config, "", "  ")
}

// registries makes the two registries' services; both begin empty.
func (r *rig) registries() ([]*service, error) {
	password := rand.Text()
	// The lowest cost: a registry checks the password with every request.
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		return nil, err
	}
	htpasswd := r.path("registry", "htpasswd")
	if err := writeFile(htpasswd, fmt.Appendf(nil, "%s:%s\n", registryUser, hash), 0o600); err != nil {
		return nil, err
	}
	r.state.Registry = r.hostPort(portRegistry)
	r.state.PrivateRegistry = privateRegistry{Host: r.hostPort(portPrivateRegistry), Username: registryUser, Password: password}
	r.state.ReadOnlyRegistry = hostOnly{Host: r.hostPort(portReadOnlyRegistry)}

	var made []*service
	for _, one := range []struct{ name, addr, htpasswd string }{
		{"registry", r.state.Registry, ""},
		{"private-registry", r.state.PrivateRegistry.Host, htpasswd},
	} {
		storage := r.path("registry", one.name)
		if err := os.RemoveAll(storage); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(storage, 0o755); err != nil {
			return nil, err
		}
		config, err := registryConfig(storage, one.addr, one.htpasswd)
		if err != nil {
			return nil, err
		}
		file := r.path("registry", one.name+".json")
		if err := writeFile(file, config, 0o600); err != nil {
			return nil, err
		}
		s := r.service(one.name, "registry", "serve", file)
		// Tracing is on by default and would look for a collector.
		s.env = append(s.env, "OTEL_TRACES_EXPORTER=none")
		made = append(made, s)
	}
	return made, nil
}

// readOnlyProxy lets reads through to the registry and refuses the rest as a registry without push rights does.
func readOnlyProxy(registry string) http.Handler {
	target := &url.URL{Scheme: "http", Host: registry}
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(target)
		// Keep the caller's host, so that Location and Link headers lead back to this address.
		p.Out.Host = p.In.Host
	}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			proxy.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintln(w, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied","detail":"this registry is read-only"}]}`)
	})
}

func (r *rig) path(parts ...string) string {
	return filepath.Join(append([]string{r.dir}, parts...)...)
}
