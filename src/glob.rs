//! Patterns in which `*` stands for any text and `?` for one character.

/// Whether `text` is of the pattern. Only the last `*` is ever tried anew, so that many of them do not take forever.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.as_bytes(), text.as_bytes());
    // The pattern after the last `*`, and the text that it has not been tried on.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => return true,
            (Some((b'*', rest)), _) => {
                star = Some((rest, text));
                pattern = rest;
            }
            (Some((expected, rest)), Some((found, others))) if expected == found || *expected == b'?' => {
                (pattern, text) = (rest, others);
            }
            _ => {
                let Some((rest, [_, others @ ..])) = star else { return false };
                star = Some((rest, others));
                (pattern, text) = (rest, others);
            }
        }
    }
}
