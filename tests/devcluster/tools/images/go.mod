module multiarch.dev/devcluster/tools/images

go 1.26.0
