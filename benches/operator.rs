//! What the operator costs and how fast it is, measured on the development cluster and printed as a table. These are
//! figures to look at, not tests: machines are noisy. `BENCH_STEADY=<seconds>` sets the length of the steady window, and
//! `BENCH_IMAGES` how many images there are in it.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a measuring program")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use multiarch::api::MultiArchImage;
use multiarch::registry::Digest;
use serde_json::{Value, json};
use support::images::Push;
use support::operator::{Operator, Start};
use support::proxy::{Counts, Proxy};
use support::{Rig, World, has_condition};

const PLATFORMS: [&str; 8] = [
    "linux/amd64",
    "linux/arm64",
    "linux/s390x",
    "linux/ppc64le",
    "linux/riscv64",
    "linux/386",
    "linux/arm/v7",
    "linux/loong64",
];

/// An operator whose every request is counted.
struct Bench {
    world: World,
    api: Arc<Counts>,
    registry: Arc<Counts>,
    host: String,
    operator: Operator,
}

impl Bench {
    async fn start() -> Bench {
        let world = World::new().await;
        let (api, registry) = (Arc::new(Counts::default()), Arc::new(Counts::default()));
        let api_proxy = Proxy::of_api_server(world.rig, &api).await;
        let registry_proxy = Proxy::of_registry(world.rig, &registry).await;
        let host = registry_proxy.address.to_string();
        let kubeconfig = api_proxy.kubeconfig(&support::root().join("target/test-logs"));
        let operator = Start::new(&world).plain_http(&host).kubeconfig(&kubeconfig).run();
        // The first image shows that the watches stand; what comes after is the image's own cost.
        let bench = Bench { world, api, registry, host, operator };
        bench.publish("warm-up", &["linux/amd64"], "warm-up", "warm-up").await;
        bench
    }

    fn repository(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.host, self.world.namespace)
    }

    /// Makes an image of sources in one repository and waits until it is published in another (or the same).
    async fn publish(&self, name: &str, platforms: &[&str], from: &str, to: &str) {
        let push = Push::to(&self.repository(from));
        let mut entries = Vec::new();
        for platform in platforms {
            let tag = platform.replace('/', "-");
            push.image(&tag, platform, &format!("{name} {platform}")).await;
            entries.push(json!({"platform": platform, "image": format!("{}:{tag}", self.repository(from))}));
        }
        self.counts_from_zero();
        let spec =
            json!({"target": {"repository": self.repository(to), "tags": [name]}, "platforms": entries});
        self.world.apply(name, spec).await;
        self.world.until_ready(name).await;
    }

    fn counts_from_zero(&self) {
        for counts in [&self.api, &self.registry] {
            counts.reads.store(0, Ordering::SeqCst);
            counts.writes.store(0, Ordering::SeqCst);
        }
    }
}

fn counted(counts: &Counts) -> (u64, u64) {
    (counts.reads.load(Ordering::SeqCst), counts.writes.load(Ordering::SeqCst))
}

fn row(what: &str, figure: impl std::fmt::Display) {
    println!("{what:<68} {figure:>16}");
}

async fn requests(bench: &Bench) {
    println!("\nRequests of one image from its creation to Ready (reads + writes)");
    for count in [2, 4, 8] {
        for (kind, from) in
            [("same repository", format!("same-{count}")), ("other repository", format!("from-{count}"))]
        {
            let name = format!("n{count}-{}", kind.split(' ').next().unwrap_or_default());
            bench.publish(&name, &PLATFORMS[..count], &from, &format!("same-{count}")).await;
            let (reads, writes) = counted(&bench.registry);
            row(&format!("registry, {count} platforms, {kind}"), format!("{reads} + {writes}"));
            let (reads, writes) = counted(&bench.api);
            row(&format!("API server, {count} platforms, {kind}"), format!("{reads} + {writes}"));
        }
    }
}

/// From the moment the Job's completion is seen on a watch to the moment the tag is there.
async fn latency(bench: &Bench) {
    if !Rig::get().has_nodes("from the Job's completion to the tag") {
        return;
    }
    println!("\nFrom the last Job's completion to the tag");
    let mut times = Vec::new();
    for number in 0..5 {
        let name = format!("build-{number}");
        let dockerfile = format!("FROM {}\nRUN echo {number}\n", bench.world.rig.images["busybox"]);
        let repository = bench.repository(&name);
        let spec = json!({
            "target": {"repository": repository, "tags": ["1.0"]},
            "platforms": [{"platform": "linux/amd64"}],
            "build": {"context": {"inline": {"dockerfile": dockerfile}}},
        });
        bench.counts_from_zero();
        bench.world.apply(&name, spec).await;
        until_complete(bench.world.api(), &name).await;
        let completed = Instant::now();
        let push = Push::to(&repository);
        while push.read("1.0").await.is_none() {}
        times.push(completed.elapsed());
        bench.world.until_ready(&name).await;
    }
    times.sort();
    row("median of 5", format!("{:.0?}", times[2]));
    row("slowest of 5", format!("{:.0?}", times[4]));
    let (reads, writes) = counted(&bench.api);
    row("API server, one build from its creation to Ready", format!("{reads} + {writes}"));
}

async fn until_complete(api: Api<Job>, image: &str) {
    use futures::StreamExt as _;
    let config = watcher::Config::default().labels(&format!("{}={image}", multiarch::api::LABEL_IMAGE));
    let mut jobs = std::pin::pin!(watcher(api, config).applied_objects());
    while let Some(job) = jobs.next().await {
        let conditions = job.ok().and_then(|job| job.status?.conditions).unwrap_or_default();
        if conditions.iter().any(|condition| condition.type_ == "Complete" && condition.status == "True") {
            return;
        }
    }
}

async fn many(bench: &Bench, count: usize) {
    println!("\nMemory");
    row("operator's RSS with a few images", resident(&bench.operator));
    let began = Instant::now();
    let push = Push::to(&bench.repository("many"));
    push.image("amd64", "linux/amd64", "many").await;
    let source = json!({"platform": "linux/amd64", "image": format!("{}:amd64", bench.repository("many"))});
    for number in 0..count {
        let target = json!({"repository": bench.repository("many"), "tags": [format!("t{number}")]});
        let spec: Value = json!({"target": target, "platforms": [source]});
        bench.world.apply(&format!("many-{number}"), spec).await;
    }
    for number in 0..count {
        bench.world.until_ready(&format!("many-{number}")).await;
    }
    row(&format!("operator's RSS with {count} images more"), resident(&bench.operator));
    row(
        &format!("{count} images from the first's creation to the last's Ready"),
        format!("{:.1?}", began.elapsed()),
    );
    row(
        "of them a source tag and a published tag each, looked at every 10 min: requests an hour",
        count * 2 * 6,
    );
}

/// Somebody moves a tag: how long until it is right again? With an interval of 10 s, 15 s are allowed.
async fn correction(bench: &Bench) {
    println!("\nA moved tag is corrected");
    let repository = bench.repository("moved");
    let push = Push::to(&repository);
    push.image("amd64", "linux/amd64", "moved").await;
    let spec = json!({
        "target": {"repository": repository, "tags": ["latest"]},
        "platforms": [{"platform": "linux/amd64", "image": format!("{repository}:amd64")}],
        "interval": "10s",
    });
    bench.world.apply("moved", spec).await;
    let image = bench.world.until_ready("moved").await;
    let expected = image.status.and_then(|status| status.digest);
    let mut times = Vec::new();
    for _ in 0..6 {
        let began = Instant::now();
        push.point("latest", "amd64").await;
        bench.world.until("moved", "drifted", |image| has_condition(image, "Drifted", "True")).await;
        let is_corrected = |image: &MultiArchImage| {
            image.status.as_ref().is_some_and(|status| status.condition("Drifted").is_none())
        };
        bench.world.until("moved", "corrected", is_corrected).await;
        let held = push.read("latest").await.map(|bytes| Digest::sha256(&bytes).to_string());
        assert_eq!(held, expected, "it is right again");
        times.push(began.elapsed());
    }
    times.sort();
    row("6 times, interval 10 s: median", format!("{:.1?}", times[times.len() / 2]));
    row("slowest", format!("{:.1?}", times[times.len() - 1]));
}

/// Nothing changes: what does the operator ask and write all the same?
async fn steady(bench: &Bench, window: Duration) {
    bench.counts_from_zero();
    tokio::time::sleep(window).await;
    println!("\nSteady state of all images above, over {} s", window.as_secs());
    let hour = |count: u64| format!("{count} ({:.0} an hour)", count as f64 * 3600.0 / window.as_secs_f64());
    let (reads, writes) = counted(&bench.api);
    row("writes to the API server", hour(writes));
    row("reads from the API server (watches that begin anew)", hour(reads));
    let (reads, writes) = counted(&bench.registry);
    row("requests to the registry", hour(reads + writes));
}

fn resident(operator: &Operator) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("unknown");
    line.trim().to_owned()
}

#[tokio::main]
async fn main() {
    let seconds = std::env::var("BENCH_STEADY").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let bench = Bench::start().await;
    requests(&bench).await;
    latency(&bench).await;
    let images = std::env::var("BENCH_IMAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    correction(&bench).await;
    bench.world.api::<MultiArchImage>().delete("moved", &Default::default()).await.expect("it is deleted");
    many(&bench, images).await;
    steady(&bench, Duration::from_secs(seconds)).await;
}
