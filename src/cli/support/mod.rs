//! `multiarch support-bundle`: what somebody else needs to see to help, in one archive, and no secrets.

mod collect;
mod kept;

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use super::Error;
use super::cluster::{self, NamespacesArguments, namespace_name};
use super::exit::{Exit, Failure};
use super::output::write;
use collect::Bundle;

/// What to collect, and where it goes.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    cluster: NamespacesArguments,
    /// The namespace that the operator runs in.
    #[arg(long, value_name = "NAME", default_value = "multiarch-system", value_parser = namespace_name)]
    operator_namespace: String,
    /// The archive; multiarch-support-TIME.tar.gz unless given. A file that exists is left alone.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What the builds have printed as well. Nobody knows what stands in there: look at it before you pass it on.
    #[arg(long)]
    build_logs: bool,
}

/// Collects and writes the archive, and says what is in it.
///
/// # Errors
/// When the cluster does not answer or has no `MultiArchImage`s to read, and when the file cannot be written. What else
/// cannot be read is noted in the archive.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    cluster::run(async {
        let cluster = arguments.cluster.connect().await?;
        let now = Timestamp::now();
        let bundle = collect::collect(&cluster, &arguments.operator_namespace, arguments.build_logs).await?;
        let name = now.strftime("multiarch-support-%Y%m%dT%H%M%SZ").to_string();
        let path = arguments.output.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
        let archive = archive(&name, &bundle, now)?;
        save(&path, &archive)?;
        write(summary(&path, &bundle, archive.len(), arguments.build_logs).as_bytes())
    })
}

fn archive(folder: &str, bundle: &Bundle, now: Timestamp) -> Result<Vec<u8>, Error> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (path, content) in &bundle.files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now.as_second()).unwrap_or_default());
        archive.append_data(&mut header, format!("{folder}/{path}"), content.as_bytes())?;
    }
    Ok(archive.into_inner()?.finish()?)
}

/// The file gets its name when it is whole, and readable for its owner only.
fn save(path: &std::path::Path, archive: &[u8]) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let fail = |error: &std::io::Error| -> Error {
        Failure::new(Exit::Other, format!("{}: {error}", path.display())).into()
    };
    let mut file =
        tempfile::NamedTempFile::new_in(folder.unwrap_or(".".as_ref())).map_err(|error| fail(&error))?;
    file.write_all(archive).map_err(|error| fail(&error))?;
    file.persist_noclobber(path).map(drop).map_err(|error| fail(&error.error))
}

fn summary(path: &std::path::Path, bundle: &Bundle, size: usize, build_logs: bool) -> String {
    let (printed, logs) = match build_logs {
        true => ("", "; look at builds/, images/ and events/ before you pass it on"),
        false => ("what builds and runs have printed, ", ""),
    };
    let left_out = format!(
        "values of build arguments, inline Dockerfiles, commands, {printed}and what URLs have after ? or before @"
    );
    let problems = match bundle.problems.as_slice() {
        [] => String::new(),
        problems => format!("could not be read (problems.txt):\n  {}\n", problems.join("\n  ")),
    };
    let files: String =
        bundle.files.iter().map(|(name, text)| format!("  {:>9}  {name}\n", text.len())).collect();
    format!(
        "{files}{problems}{}: {} files, {size} bytes. No Secret was read; left out are {left_out}{logs}\n",
        path.display(),
        bundle.files.len(),
    )
}
