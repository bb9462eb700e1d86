package main

import (
	"bytes"
	"encoding/json"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// base is embedded under another name, since the interface has a method of its own name.
type base = v1.ImageIndex

// plainIndex is an index as build tools write it: the library adds an artifactType to every image.
type plainIndex struct {
	base
	manifest *v1.IndexManifest
	raw      []byte
}

func withoutArtifactTypes(index v1.ImageIndex) (v1.ImageIndex, error) {
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	manifest = manifest.DeepCopy()
	for i := range manifest.Manifests {
		manifest.Manifests[i].ArtifactType = ""
	}
	raw, err := json.Marshal(manifest)
	return &plainIndex{index, manifest, raw}, err
}

func (p *plainIndex) IndexManifest() (*v1.IndexManifest, error) { return p.manifest, nil }
func (p *plainIndex) RawManifest() ([]byte, error)              { return p.raw, nil }
func (p *plainIndex) Size() (int64, error)                      { return int64(len(p.raw)), nil }

func (p *plainIndex) Digest() (v1.Hash, error) {
	digest, _, err := v1.SHA256(bytes.NewReader(p.raw))
	return digest, err
}
