//! How things stand at the moment of a scrape: counted then, from what is in memory, and kept nowhere.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::api::{DRIFTED, MultiArchImage, Phase};

/// How the images and builds of the cluster stand.
#[derive(Clone, Debug, Default)]
pub struct Levels {
    images: BTreeMap<&'static str, i64>,
    platforms: BTreeMap<&'static str, i64>,
    drifted: i64,
    builds_running: i64,
    builds_queued: i64,
}

/// How an image stands, as kstatus has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageState {
    /// Published as the spec says.
    Ready,
    /// On the way, or not seen yet.
    Reconciling,
    /// Not without somebody's help.
    Stalled,
    /// `spec.suspend`.
    Suspended,
}

impl ImageState {
    const ALL: [ImageState; 4] =
        [ImageState::Ready, ImageState::Reconciling, ImageState::Stalled, ImageState::Suspended];

    fn of(image: &MultiArchImage) -> Self {
        match () {
            () if image.spec.suspend => ImageState::Suspended,
            () if image.is_true("Stalled") => ImageState::Stalled,
            () if image.is_true("Ready") => ImageState::Ready,
            () => ImageState::Reconciling,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            ImageState::Ready => "Ready",
            ImageState::Reconciling => "Reconciling",
            ImageState::Stalled => "Stalled",
            ImageState::Suspended => "Suspended",
        }
    }
}

impl Levels {
    /// Counts images, and how many builds run and wait for their turn. Every state is there, also those of no image, so
    /// that an alert on one of them sees 0 and not nothing.
    pub fn of<'a>(
        images: impl IntoIterator<Item = &'a MultiArchImage>,
        builds_running: usize,
        builds_queued: usize,
    ) -> Self {
        let mut levels = Self {
            images: ImageState::ALL.into_iter().map(|state| (state.as_str(), 0)).collect(),
            platforms: Phase::TELLING
                .into_iter()
                .chain([Phase::Ready])
                .map(|phase| (phase.as_str(), 0))
                .collect(),
            drifted: 0,
            builds_running: i64::try_from(builds_running).unwrap_or(i64::MAX),
            builds_queued: i64::try_from(builds_queued).unwrap_or(i64::MAX),
        };
        for image in images {
            *levels.images.entry(ImageState::of(image).as_str()).or_default() += 1;
            let Some(status) = &image.status else { continue };
            for platform in &status.platforms {
                *levels.platforms.entry(platform.phase.as_str()).or_default() += 1;
            }
            let drifted = status.is_true(DRIFTED);
            levels.drifted += i64::from(drifted);
        }
        levels
    }
}

/// Who knows how things stand.
#[derive(Default)]
pub(super) struct Source(OnceLock<Box<dyn Fn() -> Levels + Send + Sync>>);

impl Source {
    pub fn set(&self, source: impl Fn() -> Levels + Send + Sync + 'static) {
        // The first one stays: there is one controller in a process.
        let _ = self.0.set(Box::new(source));
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Source")
    }
}

pub(super) fn register(registry: &mut Registry) -> Arc<Source> {
    let source = Arc::new(Source::default());
    registry.register_collector(Box::new(AtScrape(Arc::clone(&source))));
    source
}

#[derive(Debug)]
struct AtScrape(Arc<Source>);

impl Collector for AtScrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(source) = self.0.0.get() else { return Ok(()) };
        let levels = source();
        let help = "MultiArchImages, by state: Ready, Reconciling, Stalled or Suspended.";
        by(&mut encoder, "images", help, "state", &levels.images)?;
        let help = "Platforms of MultiArchImages, by the phase in their status.";
        by(&mut encoder, "platforms", help, "phase", &levels.platforms)?;
        let help = "MultiArchImages with published tags that are not as they were published.";
        one(&mut encoder, "images_drifted", help, levels.drifted)?;
        let help = "Builds whose Job has neither ended nor been suspended.";
        one(&mut encoder, "builds_running", help, levels.builds_running)?;
        let help = "Builds that wait for their turn, where running builds are limited.";
        one(&mut encoder, "builds_queued", help, levels.builds_queued)
    }
}

fn one(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: i64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn by(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    values: &BTreeMap<&'static str, i64>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    values.iter().try_for_each(|(state, value)| {
        let labels = [(label, *state)];
        ConstGauge::new(*value).encode(metric.encode_family(&labels)?)
    })
}
