//! What goes to registries.

use std::borrow::Cow;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;
use reqwest::{Method, StatusCode};

use super::{Ending, Histograms, Metrics, Registering, both, one_of_both};
use crate::registry::{Delivery, Descriptor, Observer, Repository};

const SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

pub(super) struct Traffic {
    requests: Family<Answer, Counter>,
    durations: Histograms<Request>,
    tokens: Family<Ending, Counter>,
    bytes: Counter,
    blobs: Family<Arrival, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    method: &'static str,
    code: Cow<'static, str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Arrival {
    delivery: &'static str,
}

impl Traffic {
    pub fn register(all: &mut Registering) -> Self {
        let durations: Histograms<Request> = Family::new_with_constructor(|| Histogram::new(SECONDS));
        Self {
            requests: all.add(
                "registry_requests",
                "Requests to registries and their token servers, by method and status code, none without an answer",
                Family::default(),
            ),
            durations: all.add_in(
                Unit::Seconds,
                "registry_request_duration",
                "From sending a request to a registry to the head of its answer",
                durations,
            ),
            tokens: all.add(
                "registry_tokens",
                "Access tokens asked for at registries' token servers, by outcome: Succeeded or Failed",
                both(),
            ),
            bytes: all.add_in(
                Unit::Bytes,
                "copied",
                "Bytes of blobs sent to registries, those of repeated uploads included",
                Counter::default(),
            ),
            blobs: all.add(
                "copied_blobs",
                "Blobs brought into repositories, by delivery: Present there already, Mounted or Uploaded",
                Family::default(),
            ),
        }
    }
}

impl Observer for Metrics {
    fn moved(&self, _: &Descriptor, bytes: u64) {
        self.0.traffic.bytes.inc_by(bytes);
    }

    fn delivered(&self, _: &Repository, _: &Descriptor, delivery: Delivery) {
        let delivery = match delivery {
            Delivery::Present => "Present",
            Delivery::Mounted => "Mounted",
            Delivery::Uploaded => "Uploaded",
        };
        self.0.traffic.blobs.get_or_create(&Arrival { delivery }).inc();
    }

    fn answered(&self, method: &Method, status: Option<StatusCode>, took: Duration) {
        let method = label_of_method(method);
        let code = status.map_or(Cow::Borrowed("none"), label_of_code);
        self.0.traffic.requests.get_or_create(&Answer { method, code }).inc();
        self.0.traffic.durations.get_or_create(&Request { method }).observe(took.as_secs_f64());
    }

    fn token_asked_for(&self, granted: bool) {
        self.0.traffic.tokens.get_or_create(&one_of_both(granted)).inc();
    }
}

fn label_of_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "PUT" => "PUT",
        "POST" => "POST",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// A server may make up nine hundred codes, and each would be a series.
fn label_of_code(status: StatusCode) -> Cow<'static, str> {
    match status.canonical_reason() {
        Some(_) => Cow::Owned(status.as_str().to_owned()),
        None => Cow::Borrowed("other"),
    }
}
