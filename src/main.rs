//! The `multiarch` command line: it wires things and does nothing else.
#![forbid(unsafe_code)]

fn main() {
    print!("{}", multiarch::cli::crd::render().unwrap());
}
