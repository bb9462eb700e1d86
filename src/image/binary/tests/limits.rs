//! That no layer takes more memory, time or bytes than it should.

use super::*;

#[tokio::test]
async fn no_more_is_read_than_is_needed() {
    let lower = Layer::new().plain("never/read", &[1; 100_000]).bytes();
    let upper = Layer::new().program("app", &program(AMD64)).plain("data", &[1; 10_000_000]).bytes();
    let image = Image::new(entrypoint(&["/app"]), vec![lower, upper]);
    let served = image.store.served.clone();
    image.steps().await;
    let served = served.load(Ordering::Relaxed);
    assert!(served <= 4096 * (AHEAD + 8), "{served} bytes were read");
}

#[tokio::test]
async fn a_long_name_is_read_and_a_longer_one_is_passed_over() {
    let long = format!("{}/app", vec!["x".repeat(200); 2].join("/"));
    let layer = Layer::new().program(&"y/".repeat(3000), b"").program(&long, &program(AMD64)).gzip();
    let name = format!("/{long}");
    assert_eq!(Image::new(entrypoint(&[&name]), vec![layer]).steps().await, [name]);
}

/// Counts what is read of it.
struct Counted<R>(R, Arc<AtomicUsize>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.fetch_add(count, Ordering::Relaxed);
        Ok(count)
    }
}

/// What reading a layer with these limits ends with, and how many of its bytes were read.
fn read_with_limits(layer: &[u8], largest_layer: u64, remaining: u64) -> (String, usize) {
    let config = serde_json::from_value(json!({"config": {"Cmd": ["/app"]}})).unwrap();
    let search = Search::new(&config, &"linux/amd64".parse().unwrap()).unwrap();
    let mut inspection = Inspection { largest_layer, remaining, ..Inspection::new(search, 1) };
    let count = Arc::new(AtomicUsize::new(0));
    let error = inspection.read(Counted(layer, count.clone())).unwrap_err();
    assert!(inspection.remaining >= remaining.saturating_sub(largest_layer));
    (error.to_string(), count.load(Ordering::Relaxed))
}

/// A header that announces more content than comes.
fn announced(kind: EntryType, size: u64) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_path("large").unwrap();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

#[test]
fn a_layer_that_unpacks_to_too_much_is_given_up_early() {
    let mut archive = announced(EntryType::Regular, 1 << 40);
    archive.resize(32 << 20, 0);
    for bomb in [gzip(&archive), zstd(&archive)] {
        for (largest, remaining) in [(1 << 20, 1 << 30), (1 << 30, 1 << 20)] {
            let (error, read) = read_with_limits(&bomb, largest, remaining);
            assert_eq!(error, "it unpacks to more than 1048576 bytes, which is more than is looked through");
            assert!(read < 128 * 1024 && read < bomb.len(), "{read} of {} bytes", bomb.len());
        }
    }
}

#[test]
fn headers_without_end_are_given_up_before_they_fill_the_memory() {
    for kind in [EntryType::XHeader, EntryType::GNULongName, EntryType::GNULongLink] {
        let mut archive = announced(kind, 1 << 30);
        archive.resize(32 << 20, b'x');
        let bomb = gzip(&archive);
        let (error, read) = read_with_limits(&bomb, 1 << 30, 1 << 30);
        assert_eq!(error, "a file in it has headers of more than 1048576 bytes");
        // The decompressor reads 32 KiB at once.
        assert!(read < 40_000 && read < bomb.len(), "{read} of {} bytes", bomb.len());
    }
}

#[test]
fn a_sparse_file_is_as_large_as_what_is_stored_of_it() {
    let mut header = Header::new_gnu();
    header.set_path("sparse").unwrap();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o755);
    header.set_size(0);
    header.as_gnu_mut().unwrap().set_real_size(1 << 60);
    let map = &mut header.as_gnu_mut().unwrap().sparse[0];
    map.set_offset(1 << 60);
    map.set_length(0);
    header.set_cksum();
    let mut archive = header.as_bytes().to_vec();
    archive.extend(Layer::new().program("app", &program(AMD64)).bytes());
    let config = serde_json::from_value(json!({"config": {"Cmd": ["/app"]}})).unwrap();
    let search = Search::new(&config, &"linux/amd64".parse().unwrap()).unwrap();
    let mut inspection = Inspection::new(search, 1);
    inspection.read(archive.as_slice()).unwrap();
    assert!(matches!(inspection.outcome, Outcome::Found { .. }), "{:?}", inspection.outcome);
}

#[test]
fn a_zstd_frame_that_wants_too_much_memory_is_refused() {
    // A window of 3.75 TB, and a single segment of as much.
    for frame in [&b"\x28\xb5\x2f\xfd\x00\xff\x01\0\0"[..], b"\x28\xb5\x2f\xfd\xe0\0\0\0\0\0\0\x03\0\x01\0\0"]
    {
        let (error, _) = read_with_limits(frame, 1 << 30, 1 << 30);
        assert!(error.starts_with("its zstd window of "), "{error}");
    }
}

#[test]
fn more_files_than_can_be_remembered_are_told() {
    let config = serde_json::from_value(json!({"config": {"Cmd": ["/app"]}})).unwrap();
    let search = Search::new(&config, &"linux/amd64".parse().unwrap()).unwrap();
    let mut inspection = Inspection::new(search, 1);
    // Links of 4,000 bytes each.
    let target = "t".repeat(4000);
    let layer =
        (0..5000).fold(Layer::new(), |layer, number| layer.symlink(&format!("link{number}"), &target));
    let error = inspection.read(layer.bytes().as_slice()).unwrap_err();
    assert!(error.to_string().contains("more than 400000 links and executable files"), "{error}");
}

#[tokio::test]
async fn an_inspection_that_is_dropped_stops_reading() {
    /// Serves without end, and tells when it is let go.
    struct Endless(mpsc::Sender<()>);
    impl BlobStore for Endless {
        fn place(&self, blob: &Descriptor) -> String {
            blob.digest.to_string()
        }
        fn open(&self, _: &Descriptor, _: u64) -> BoxFuture<'static, Result<ByteStream, Error>> {
            let alive = self.0.clone();
            let piece = Bytes::from(vec![0; 512]);
            let piece = announced_piece(&piece);
            async move {
                let bytes = stream::repeat_with(move || {
                    let _ = &alive;
                    Ok(piece.clone())
                });
                Ok(bytes.boxed())
            }
            .boxed()
        }
    }
    fn announced_piece(_: &Bytes) -> Bytes {
        announced(EntryType::Regular, 0).into()
    }
    let (alive, mut gone) = mpsc::channel(1);
    let layer = Descriptor::new(MediaType::new(TAR_GZIP), Digest::sha256(b""), LARGEST_LAYER);
    let image = Image::new(entrypoint(&["/app"]), Vec::new());
    let manifest = ImageManifest { layers: vec![layer], ..image.manifest };
    let platform = "linux/amd64".parse().unwrap();
    let mut inspection =
        Box::pin(inspect_program(Arc::new(Endless(alive)), &manifest, &image.config, &platform));
    assert!(futures::poll!(&mut inspection).is_pending());
    drop(inspection);
    // All that read from it is gone.
    assert_eq!(gone.recv().await, None);
}

#[test]
fn a_search_without_end_is_given_up() {
    let path = vec!["x:/"; 1000].join(&"d/".repeat(500));
    let config = json!({"config": {"Cmd": ["app"], "Env": [format!("PATH={path}")]}});
    let config = serde_json::from_value(config).unwrap();
    let layer = Layer::new().bytes();
    let layers = vec![layer.as_slice(); 200];
    let finding = inspect_layers(&layers, &config, &"linux/amd64".parse().unwrap(), MOST_UNPACKED);
    assert_eq!(
        finding.to_string(),
        r#""app" takes too long to find in so many layers, links and directories"#
    );
}
