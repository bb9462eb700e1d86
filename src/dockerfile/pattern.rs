//! The patterns of `${name#pattern}` and its like: `*`, `?` and escapes, no brackets.

use std::iter::repeat_n;

/// The most steps that are taken to match one.
const MOST_STEPS: usize = 1 << 13;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Anything,
    One,
    Letter(char),
}

/// Which end of the value is cut off.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// `#`
    Prefix,
    /// `%`
    Suffix,
}

/// A pattern that can be matched.
pub(super) struct Pattern(Vec<Token>);

impl Pattern {
    /// None if a letter is escaped that need not be, which BuildKit refuses.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut letters = text.chars();
        let mut tokens = Vec::new();
        while let Some(letter) = letters.next() {
            tokens.push(match letter {
                '*' => Token::Anything,
                '?' => Token::One,
                '\\' => match letters.next()? {
                    escaped @ ('*' | '?' | '\\' | '}' | '/') => Token::Letter(escaped),
                    _ => return None,
                },
                letter => Token::Letter(letter),
            });
        }
        Some(Self(tokens))
    }

    /// The letters, if it has neither `*` nor `?` and matches only them.
    pub(super) fn literal(&self) -> Option<String> {
        let letter = |token: &Token| if let Token::Letter(letter) = token { Some(*letter) } else { None };
        self.0.iter().map(letter).collect()
    }

    /// `value` without the shortest or the longest match at one end; none if that takes too long.
    pub(super) fn cut(&self, value: &str, end: End, longest: bool) -> Option<String> {
        let mut letters: Vec<char> = value.chars().collect();
        if letters.len().saturating_mul(self.0.len()) > MOST_STEPS {
            return None;
        }
        let mut tokens = self.0.clone();
        if end == End::Suffix {
            letters.reverse();
            tokens.reverse();
        }
        let lengths = matching_lengths(&tokens, &letters);
        let mut matching = (0..lengths.len()).filter(|&length| lengths[length]);
        let length = if longest { matching.next_back() } else { matching.next() };
        let mut rest = letters.split_off(length.unwrap_or_default());
        if end == End::Suffix {
            rest.reverse();
        }
        Some(rest.into_iter().collect())
    }
}

/// For every length whether that many of the first letters match all tokens.
fn matching_lengths(tokens: &[Token], letters: &[char]) -> Vec<bool> {
    let mut reached: Vec<bool> = std::iter::once(true).chain(repeat_n(false, letters.len())).collect();
    for token in tokens {
        reached = match token {
            Token::Anything => {
                let first = reached.iter().position(|&reached| reached).unwrap_or(reached.len());
                (0..reached.len()).map(|length| length >= first).collect()
            }
            token => {
                let matches = |&(letter, &before): &(&char, &bool)| {
                    before && (*token == Token::One || *token == Token::Letter(*letter))
                };
                std::iter::once(false)
                    .chain(letters.iter().zip(&reached).map(|pair| matches(&pair)))
                    .collect()
            }
        };
    }
    reached
}
