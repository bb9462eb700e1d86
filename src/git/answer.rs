//! Takes answers of git servers apart while they come: packet lines, and the pack in them (`gitprotocol-pack(5)`).

use gix_packetline::PacketLineRef;
use gix_packetline::decode::{Stream, streaming};

use super::pack::LARGEST_PACK;

/// Longest answer besides its pack, in bytes; a repository with 100,000 refs needs half of it.
const LONGEST: usize = 16 * 1024 * 1024;
/// How much of what a server says is repeated, in characters.
const MOST_REPEATED: usize = 300;

/// Where an answer is over, besides the end of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// At the first flush packet.
    Flush,
    /// At the flush packet after a pack.
    PackEnd,
    /// Nowhere.
    Close,
}

/// What is wrong with an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not what git servers say.
    Malformed(String),
    /// The server's own error.
    Said(String),
    /// It is longer than anything that is read.
    TooLarge,
}

/// An answer as far as it has come.
pub(super) struct Answer {
    until: Until,
    buffer: Vec<u8>,
    read: usize,
    in_pack: bool,
    over: bool,
    fault: Option<Fault>,
    /// Lines outside of the pack.
    pub(super) lines: Vec<Vec<u8>>,
    pub(super) pack: Vec<u8>,
}

impl Answer {
    pub(super) fn new(until: Until) -> Self {
        let (buffer, lines, pack) = Default::default();
        Self { until, buffer, read: 0, in_pack: false, over: false, fault: None, lines, pack }
    }

    /// Takes the next piece, and says whether that was the last that is of interest.
    pub(super) fn push(&mut self, piece: &[u8]) -> bool {
        self.buffer.extend_from_slice(piece);
        let buffer = std::mem::take(&mut self.buffer);
        let mut rest = buffer.as_slice();
        while !self.over {
            match streaming(rest) {
                Ok(Stream::Complete { line, bytes_consumed }) => {
                    rest = &rest[bytes_consumed..];
                    if let Err(fault) = self.packet(line) {
                        self.fail(fault);
                    }
                }
                Ok(Stream::Incomplete { .. }) => break,
                Err(error) => {
                    self.fail(Fault::Malformed(format!(
                        "malformed answer: {}",
                        repeated(&error.to_string())
                    )));
                }
            }
        }
        self.buffer = rest.to_vec();
        self.over
    }

    fn fail(&mut self, fault: Fault) {
        self.fault = Some(fault);
        self.over = true;
    }

    /// The whole answer, when it is over or the stream has ended.
    ///
    /// # Errors
    /// The first thing that was wrong with it.
    pub(super) fn end(self) -> Result<Self, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if !self.over && (self.until != Until::Close || !self.buffer.is_empty()) {
            return Err(Fault::Malformed("the answer broke off".to_owned()));
        }
        Ok(self)
    }

    /// Whether nothing has come.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.read == 0 && !self.over
    }

    fn packet(&mut self, packet: PacketLineRef<'_>) -> Result<(), Fault> {
        match packet {
            PacketLineRef::Data(data) if self.in_pack => self.band(data),
            PacketLineRef::Data(data) => self.line(data),
            PacketLineRef::Flush => {
                self.over = match self.until {
                    Until::Flush => true,
                    Until::PackEnd => self.in_pack,
                    Until::Close => false,
                };
                Ok(())
            }
            PacketLineRef::Delimiter | PacketLineRef::ResponseEnd => Ok(()),
        }
    }

    fn line(&mut self, data: &[u8]) -> Result<(), Fault> {
        if let Some(message) = data.strip_prefix(b"ERR ") {
            return Err(Fault::Said(repeated(&String::from_utf8_lossy(message))));
        }
        self.read += data.len();
        if self.read > LONGEST {
            return Err(Fault::TooLarge);
        }
        // The first is of version 2, the second of version 0.
        let begins_pack = matches!(data.trim_ascii_end(), b"packfile" | b"NAK");
        self.in_pack = self.until == Until::PackEnd && begins_pack;
        self.lines.push(data.to_vec());
        Ok(())
    }

    /// A packet of one of the side bands: pack, progress, or the error that ends everything.
    fn band(&mut self, data: &[u8]) -> Result<(), Fault> {
        match data.split_first() {
            Some((1, pack)) => {
                if self.pack.len() + pack.len() > LARGEST_PACK {
                    return Err(Fault::TooLarge);
                }
                self.pack.extend_from_slice(pack);
                Ok(())
            }
            Some((2, _)) => Ok(()),
            Some((3, message)) => Err(Fault::Said(repeated(&String::from_utf8_lossy(message)))),
            _ => Err(Fault::Malformed("malformed answer: the pack is on no side band".to_owned())),
        }
    }
}

/// What somebody else said, on one line and not too much of it.
pub(super) fn repeated(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(MOST_REPEATED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::protocol::packet;

    fn answer() -> Vec<u8> {
        let mut answer = packet("packfile\n");
        answer.extend(packet("\u{2}counting objects"));
        answer.extend(packet("\u{1}PACK"));
        answer.extend(packet("\u{1}rest"));
        answer.extend(b"0000");
        answer
    }

    fn fault(until: Until, pieces: &[Vec<u8>]) -> Option<Fault> {
        let mut answer = Answer::new(until);
        let _ = pieces.iter().any(|piece| answer.push(piece));
        answer.end().err()
    }

    #[test]
    fn an_answer_may_come_in_any_pieces() {
        let bytes = answer();
        for size in 1..bytes.len() {
            let mut answer = Answer::new(Until::PackEnd);
            let over: Vec<bool> = bytes.chunks(size).map(|piece| answer.push(piece)).collect();
            assert_eq!(over.iter().position(|over| *over), Some(over.len() - 1));
            let pack = answer.end().map(|answer| answer.pack);
            assert_eq!(pack.as_deref(), Ok(b"PACKrest".as_slice()));
        }
    }

    #[test]
    fn an_answer_that_breaks_off_is_an_error_and_no_panic() {
        let bytes = answer();
        for length in 0..bytes.len() {
            let mut answer = Answer::new(Until::PackEnd);
            answer.push(&bytes[..length]);
            assert_eq!(answer.is_empty(), length == 0);
            assert!(answer.end().is_err(), "{length}");
        }
        for rubbish in ["zzzz", "0003", "ffff", "000é"] {
            assert!(fault(Until::Close, &[rubbish.into()]).is_some(), "{rubbish}");
        }
    }

    #[test]
    fn what_the_server_says_is_repeated_on_one_line() {
        let said = fault(Until::Close, &[packet("ERR access denied\nor not exported\n")]);
        assert_eq!(said, Some(Fault::Said("access denied or not exported".to_owned())));
        let said = fault(Until::PackEnd, &[packet("NAK\n"), packet("\u{3}out of memory\n")]);
        assert_eq!(said, Some(Fault::Said("out of memory".to_owned())));
    }

    #[test]
    fn an_answer_without_end_is_given_up() {
        let mut answer = Answer::new(Until::Close);
        let line = packet(&"x".repeat(60_000));
        assert!((0..1000).any(|_| answer.push(&line)));
        assert_eq!(answer.end().err(), Some(Fault::TooLarge));
        let mut answer = Answer::new(Until::PackEnd);
        answer.push(&packet("NAK\n"));
        let line = packet(&format!("\u{1}{}", "x".repeat(60_000)));
        assert!((0..2000).any(|_| answer.push(&line)) && answer.pack.len() <= LARGEST_PACK);
        assert_eq!(answer.end().err(), Some(Fault::TooLarge));
    }
}
