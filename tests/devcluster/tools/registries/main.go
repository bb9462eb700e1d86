// Command registries serves a registry of another make than distribution's, in memory, for the tests.
package main

import (
	"flag"
	"io"
	"log"
	"net"
	"net/http"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	name := flag.String("make", "cue", "cue, ecr or ggcr")
	flag.Parse()
	makes := map[string]http.Handler{
		// Referrers API with filters, OCI-Subject, paging.
		"cue": ociserver.New(ocimem.New(), nil),
		// The same with the habits of Amazon's registry.
		"ecr": ociserver.New(ocimem.New(), &ociserver.Options{
			DisableReferrersFiltering: true, DisableSinglePostUpload: true,
			MaxListPageSize: 1000, OmitDigestFromTagGetResponse: true,
		}),
		// Referrers API without OCI-Subject; every mount opens an upload, no list has pages.
		"ggcr": registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))),
	}
	handler, known := makes[*name]
	if !known {
		log.Fatalf("no such make: %s", *name)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listening on %s", listener.Addr())
	log.Fatal(http.Serve(listener, handler))
}
