package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// pushImages fills the new registry from the cached layout.
func (r *rig) pushImages(ctx context.Context) error {
	if err := waitFor(ctx, 30*time.Second, "the registry (see "+r.logPath("registry")+")", func() error {
		response, err := http.Get("http://" + r.state.Registry + "/v2/")
		if err == nil {
			response.Body.Close()
		}
		return err
	}); err != nil {
		return err
	}
	where, err := os.ReadFile(r.path("images.path"))
	if err != nil {
		return err
	}
	index, err := layout.ImageIndexFromPath(string(where))
	if err != nil {
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	var pushes []func() error
	for _, descriptor := range manifest.Manifests {
		tag := descriptor.Annotations["org.opencontainers.image.ref.name"]
		pushes = append(pushes, func() error {
			if err := push(ctx, index, descriptor, r.state.image(tag)); err != nil {
				return fmt.Errorf("push %s: %w", tag, err)
			}
			return nil
		})
	}
	r.mu.Lock()
	r.state.BuilderImage = r.state.image(buildkitTag)
	r.state.Images = map[string]string{
		"busybox": r.state.image(busyboxTag), "compiler": r.state.image(compilerTag), "go": r.state.image(goTag), "uname-s390x": r.state.image(unameTag),
	}
	r.mu.Unlock()
	return together(pushes...)
}

func push(ctx context.Context, from v1.ImageIndex, descriptor v1.Descriptor, to string) error {
	ref, err := name.ParseReference(to, name.Insecure)
	if err != nil {
		return err
	}
	if descriptor.MediaType.IsIndex() {
		index, err := from.ImageIndex(descriptor.Digest)
		if err != nil {
			return err
		}
		return remote.WriteIndex(ref, index, remote.WithContext(ctx))
	}
	image, err := from.Image(descriptor.Digest)
	if err != nil {
		return err
	}
	return remote.Write(ref, image, remote.WithContext(ctx))
}
